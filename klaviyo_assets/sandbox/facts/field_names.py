"""The names each resource type accepts in `fields[type]`.

Written as a tree in text: a name ending in `{` opens its children, `}` closes them; a parent may be
asked for as a whole. Names only.
"""

from typing import Final


def names(tree: str) -> frozenset[str]:
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


_MOST_OF_PROFILE: Final = """
    id email phone_number external_id first_name last_name locale title image created updated
    last_event_date organization properties
    location{ address1 address2 city country latitude longitude region zip timezone ip }
"""
_WHATSAPP: Final = """
    can_receive consent consent_timestamp created_timestamp last_updated metadata phone_number
    valid_until
"""
_SUBSCRIPTIONS: Final = f"""
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
        conversational{{ {_WHATSAPP} }}
        marketing{{ {_WHATSAPP} }}
        transactional{{ {_WHATSAPP} }}
      }}
    }}
"""
_PREDICTIVE: Final = """
    predictive_analytics{ average_days_between_orders average_order_value churn_probability
      expected_date_of_next_order historic_clv historic_number_of_orders predicted_clv
      predicted_number_of_orders ranked_channel_affinity total_clv }
"""

ACCOUNT: Final = names("""
    id test_account industry timezone preferred_currency public_api_key locale
    contact_information{ default_sender_email default_sender_name organization_name website_url
      street_address{ address1 address2 city country region zip } }
""")
ATTRIBUTION: Final = names("id")
CAMPAIGN: Final = names("""
    id name status archived audiences{ excluded included } created_at scheduled_at updated_at
    send_time send_options{ use_smart_sending }
    send_strategy{ date datetime method options{ is_local send_past_recipients_immediately }
      throttle_percentage }
    tracking_options{ add_tracking_params custom_tracking_params is_tracking_clicks
      is_tracking_opens }
""")
CAMPAIGN_MESSAGE: Final = names("""
    id created_at updated_at send_times
    definition{ channel label notification_type kv_pairs
      content{ subject preview_text from_email from_label reply_to_email cc_email bcc_email body
        media_url title dynamic_image action_buttons }
      render_options{ shorten_links add_org_prefix add_info_link add_opt_out_language }
      options{ on_open{ type ios_deep_link android_deep_link url }
        badge{ display badge_options{ badge_config value set_from_property } } play_sound } }
""")
CONVERSATION: Final = names("id channel")
CUSTOM_METRIC: Final = names(
    "id name created updated definition{ aggregation_method metric_groups }"
)
ESTIMATION: Final = names("id estimated_recipient_count")
EVENT: Final = names("id timestamp event_properties datetime uuid")
FLOW: Final = names("id name status archived created updated trigger_type")
FLOW_DETAIL: Final = FLOW | names("""
    definition{ actions entry_action_id profile_filter{ condition_groups }
      reentry_criteria{ duration unit } triggers }
""")
FLOW_ACTION: Final = names("id created updated definition{ id type links data }")
IMAGE: Final = names("id name image_url format size hidden updated_at")
LIST: Final = names("id name created updated opt_in_process")
LIST_DETAIL: Final = LIST | names("profile_count")
MAPPED_METRIC: Final = names("id updated")
METRIC: Final = names("id name created updated integration")
PROFILE: Final = names(_MOST_OF_PROFILE + _SUBSCRIPTIONS + _PREDICTIVE)
PROFILE_OF_EVENT: Final = names(_MOST_OF_PROFILE)
PROFILE_OF_GROUP: Final = PROFILE | names("joined_group_at")
PUSH_TOKEN: Final = names("""
    id created token enablement_status platform vendor background recorded_date
    metadata{ device_id klaviyo_sdk sdk_version device_model os_name os_version manufacturer
      app_name app_version app_build app_id environment }
""")
SEGMENT: Final = names("""
    id name created updated is_active is_processing is_starred definition{ condition_groups }
""")
SEGMENT_DETAIL: Final = SEGMENT | names("profile_count")
TAG: Final = names("id name")
TAG_GROUP: Final = names("id name exclusive default")
TEMPLATE_OF_MESSAGE: Final = names("id name editor_type html text amp created updated")
TEMPLATE: Final = TEMPLATE_OF_MESSAGE | names("""
    definition{ id template_id styles
      body{ id sections properties{ id css_class } styles{ background_color width } } }
""")
