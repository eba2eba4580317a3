"""Posts a text to the address of a webhook, in the form that Slack's incoming webhooks take."""

from http import HTTPStatus

import requests

from klaviyo_assets.errors import TransientError

WEBHOOK_TIMEOUT_SECONDS = 10.0


def post_to_webhook(url: str, text: str) -> None:
    """Post `{"text": ...}`. One attempt, and no redirect is followed.

    Raises:
        TransientError: it was not accepted; the message does not quote the address, which is a
            secret.
    """
    try:
        with requests.post(
            url,
            json={"text": text},
            timeout=WEBHOOK_TIMEOUT_SECONDS,
            allow_redirects=False,
        ) as response:
            status = response.status_code
    except requests.RequestException as error:
        raise TransientError(f"the webhook cannot be reached: {type(error).__name__}") from None
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        raise TransientError(f"the webhook answered with status {status}")
