//! Limits of a group over HTTP.

use serde_json::json;

use super::api::rig;
use super::client::{done, get_json, post, state_until};

const LIMITS: &str = "/api/groups/limits";

#[test]
fn a_group_is_given_limits_which_are_listed_and_taken_back() {
    let rig = rig();
    let set = done(&rig, LIMITS, json!({"group": "g", "max_in_flight": 10, "max_begun_per_second": 2.5}));
    let mut whole = json!({"max_in_flight": 10, "max_begun_per_second": 2.5, "lane_max": 1, "lane_on_dead": "release"});
    assert_eq!(set, json!({"limits": whole, "is_new": true}));
    state_until(&rig, |state| state["groups"][0]["limits"] == whole);

    // What is not named stays as it was; `null` takes a limit back.
    let set =
        done(&rig, LIMITS, json!({"group": "g", "max_begun_per_second": null, "lane_max": 3, "lane_on_dead": "hold"}));
    whole = json!({"max_in_flight": 10, "max_begun_per_second": null, "lane_max": 3, "lane_on_dead": "hold"});
    assert_eq!(set, json!({"limits": whole, "is_new": false}));
    state_until(&rig, |state| state["groups"][0]["limits"] == whole);
}

#[test]
fn limits_that_make_no_sense_are_refused_with_what_to_do() {
    let rig = rig();
    for (body, why) in [
        (json!({"group": "g"}), "no limit is named"),
        (json!({"max_in_flight": 1}), "group"),
        (json!({"group": "g", "max_in_flight": 0}), "a nonzero u32"),
        (json!({"group": "g", "max_in_flight": -1}), "a nonzero u32"),
        (json!({"group": "g", "max_begun_per_second": 0.0001}), "from 0.001 to 1000000"),
        (json!({"group": "g", "lane_max": 0}), "a nonzero u32"),
        (json!({"group": "g", "lane_on_dead": "burn"}), "release"),
        (json!({"group": "g", "max_in_fligth": 1}), "max_in_fligth"),
    ] {
        let refused = post(&rig, LIMITS, &body.to_string());
        assert_eq!(refused.status, 400, "{body}");
        assert!(refused.error().contains(why), "{body}: {}", refused.error());
    }
    let unknown = post(&rig, LIMITS, &json!({"group": "nobody", "max_in_flight": null}).to_string());
    assert_eq!(unknown.status, 404, "{unknown:?}");
    assert_eq!(get_json(&rig, "/api/groups?q=")["groups"], json!([]), "none of them made a group");
}
