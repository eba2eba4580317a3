"""The types of the published facts: tiers, page sizes, filters, operations, field names.

Types and tiers only; the rows are beside this file.

Written as a tree in text: a name ending in `{` opens its children, `}` closes them; a parent may be
asked for as a whole. Names only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

OperationRole = Literal[
    "collection", "detail", "children", "members", "member_ids", "linkage", "report"
]
FilterKind = Literal["text", "time", "boolean", "number", "presence"]


@dataclass(frozen=True, slots=True)
class PublishedTier:
    """Requests allowed per second, per minute, and (reports) per day."""

    burst: int
    steady: int
    daily: int | None = None


PUBLISHED_XS: Final = PublishedTier(1, 15)
PUBLISHED_S: Final = PublishedTier(3, 60)
PUBLISHED_M: Final = PublishedTier(10, 150)
PUBLISHED_L: Final = PublishedTier(75, 750)
PUBLISHED_XL: Final = PublishedTier(350, 3500)
PUBLISHED_REPORT: Final = PublishedTier(1, 2, 225)


@dataclass(frozen=True, slots=True)
class PageSizeLimits:
    """Records in a page: by default, and at most."""

    default: int
    maximum: int


@dataclass(frozen=True, slots=True)
class FilterableField:
    """One filterable field: its operators, the kind of its literals, and its closed values."""

    operators: tuple[str, ...]
    kind: FilterKind = "text"
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One published operation.

    `page_size` is None where `page[size]` is not accepted; `has_cursor` says whether `page[cursor]`
    is. `fixed_page_size` is the page length of cursor-only operations. `reduced_tiers` names a
    parameter value and the lower tier that it is bound to. `required_filter` is a field without
    which the answer is 400.
    """

    name: str
    path: str
    role: OperationRole
    kind: str
    tier: PublishedTier
    scopes: tuple[str, ...]
    method: str = "GET"
    page_size: PageSizeLimits | None = None
    has_cursor: bool = False
    fixed_page_size: int | None = None
    filters: Mapping[str, FilterableField] = field(default_factory=dict[str, FilterableField])
    required_filter: str | None = None
    past_bounds_only: bool = False
    sort_matches_filter: bool = False
    sorts: tuple[str, ...] = ()
    default_sort: str = "id"
    includes: tuple[str, ...] = ()
    additional_fields: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict[str, tuple[str, ...]]
    )
    reduced_tiers: Mapping[str, PublishedTier] = field(default_factory=dict[str, PublishedTier])
    fieldsets: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])


EQ: Final = "equals"
ANY: Final = "any"
GT: Final = "greater-than"
LT: Final = "less-than"
GE: Final = "greater-or-equal"
LE: Final = "less-or-equal"
CONTAINS: Final = "contains"
STARTS_WITH: Final = "starts-with"
ENDS_WITH: Final = "ends-with"
HAS: Final = "has"

TIME_BOUNDS: Final = FilterableField((GE, GT, LE, LT), "time")
TIME_BOUNDS_OR_EQUAL: Final = FilterableField((EQ, GE, GT, LE, LT), "time")
TIME_AFTER: Final = FilterableField((GT,), "time")
TIME_STRICT_BOUNDS: Final = FilterableField((GT, LT), "time")
TEXT_EQUALS: Final = FilterableField((EQ,))
TEXT_EQUALS_OR_ANY: Final = FilterableField((ANY, EQ))
TEXT_ANY: Final = FilterableField((ANY,))
BOOLEAN_EQUALS: Final = FilterableField((EQ,), "boolean")
TEXT_SEARCH: Final = FilterableField((CONTAINS, ENDS_WITH, EQ, STARTS_WITH))
RELATION_PRESENT: Final = FilterableField((HAS,), "presence")


def expand_field_tree(tree: str) -> frozenset[str]:
    """All dotted names of a tree: `id email{ to cc }` gives id, email, email.to, email.cc."""
    found: set[str] = set()
    path: list[str] = []
    for word in tree.split():
        if word == "}":
            path.pop()
            continue
        found.add(".".join([*path, word.removesuffix("{")]))
        if word.endswith("{"):
            path.append(word.removesuffix("{"))
    return frozenset(found)


_PROFILE_TREE: Final = """
    id email phone_number external_id first_name last_name locale title image created updated
    last_event_date organization properties
    location{ address1 address2 city country latitude longitude region zip timezone ip }
"""
_WHATSAPP_TREE: Final = """
    can_receive consent consent_timestamp created_timestamp last_updated metadata phone_number
    valid_until
"""
_SUBSCRIPTIONS_TREE: Final = f"""
    subscriptions{{
      email{{
        marketing{{ can_receive_email_marketing consent consent_timestamp custom_method_detail
          double_optin last_updated list_suppressions method method_detail suppression }}
        open_tracking{{ can_receive consent consent_timestamp created_timestamp last_updated
          metadata valid_until }}
      }}
      mobile_push{{ marketing{{ can_receive_push_marketing consent consent_timestamp }} }}
      sms{{
        marketing{{ can_receive_sms_marketing consent consent_timestamp last_updated method
          method_detail }}
        transactional{{ can_receive_sms_transactional consent consent_timestamp last_updated method
          method_detail }}
      }}
      whatsapp{{
        conversational{{ {_WHATSAPP_TREE} }}
        marketing{{ {_WHATSAPP_TREE} }}
        transactional{{ {_WHATSAPP_TREE} }}
      }}
    }}
"""
_PREDICTIVE_TREE: Final = """
    predictive_analytics{ average_days_between_orders average_order_value churn_probability
      expected_date_of_next_order historic_clv historic_number_of_orders predicted_clv
      predicted_number_of_orders ranked_channel_affinity total_clv }
"""

ACCOUNT_FIELDS: Final = expand_field_tree("""
    id test_account industry timezone preferred_currency public_api_key locale
    contact_information{ default_sender_email default_sender_name organization_name website_url
      street_address{ address1 address2 city country region zip } }
""")
ATTRIBUTION_FIELDS: Final = expand_field_tree("id")
CAMPAIGN_FIELDS: Final = expand_field_tree("""
    id name status archived audiences{ excluded included } created_at scheduled_at updated_at
    send_time send_options{ use_smart_sending }
    send_strategy{ date datetime method options{ is_local send_past_recipients_immediately }
      throttle_percentage }
    tracking_options{ add_tracking_params custom_tracking_params is_tracking_clicks
      is_tracking_opens }
""")
CAMPAIGN_MESSAGE_FIELDS: Final = expand_field_tree("""
    id created_at updated_at send_times
    definition{ channel label notification_type kv_pairs
      content{ subject preview_text from_email from_label reply_to_email cc_email bcc_email body
        media_url title dynamic_image action_buttons }
      render_options{ shorten_links add_org_prefix add_info_link add_opt_out_language }
      options{ on_open{ type ios_deep_link android_deep_link url }
        badge{ display badge_options{ badge_config value set_from_property } } play_sound } }
""")
CONVERSATION_FIELDS: Final = expand_field_tree("id channel")
CUSTOM_METRIC_FIELDS: Final = expand_field_tree(
    "id name created updated definition{ aggregation_method metric_groups }"
)
ESTIMATION_FIELDS: Final = expand_field_tree("id estimated_recipient_count")
EVENT_FIELDS: Final = expand_field_tree("id timestamp event_properties datetime uuid")
FLOW_FIELDS: Final = expand_field_tree("id name status archived created updated trigger_type")
FLOW_DETAIL_FIELDS: Final = FLOW_FIELDS | expand_field_tree("""
    definition{ actions entry_action_id profile_filter{ condition_groups }
      reentry_criteria{ duration unit } triggers }
""")
FLOW_ACTION_FIELDS: Final = expand_field_tree("id created updated definition{ id type links data }")
IMAGE_FIELDS: Final = expand_field_tree("id name image_url format size hidden updated_at")
LIST_FIELDS: Final = expand_field_tree("id name created updated opt_in_process")
MAPPED_METRIC_FIELDS: Final = expand_field_tree("id updated")
METRIC_FIELDS: Final = expand_field_tree("id name created updated integration")
PROFILE_FIELDS: Final = expand_field_tree(_PROFILE_TREE + _SUBSCRIPTIONS_TREE + _PREDICTIVE_TREE)
EVENT_PROFILE_FIELDS: Final = expand_field_tree(_PROFILE_TREE)
GROUP_PROFILE_FIELDS: Final = PROFILE_FIELDS | expand_field_tree("joined_group_at")
PUSH_TOKEN_FIELDS: Final = expand_field_tree("""
    id created token enablement_status platform vendor background recorded_date
    metadata{ device_id klaviyo_sdk sdk_version device_model os_name os_version manufacturer
      app_name app_version app_build app_id environment }
""")
SEGMENT_FIELDS: Final = expand_field_tree("""
    id name created updated is_active is_processing is_starred definition{ condition_groups }
""")
TAG_FIELDS: Final = expand_field_tree("id name")
TAG_GROUP_FIELDS: Final = expand_field_tree("id name exclusive default")
MESSAGE_TEMPLATE_FIELDS: Final = expand_field_tree(
    "id name editor_type html text amp created updated"
)
TEMPLATE_FIELDS: Final = MESSAGE_TEMPLATE_FIELDS | expand_field_tree("""
    definition{ id template_id styles
      body{ id sections properties{ id css_class } styles{ background_color width } } }
""")
