//! An Envoy file beside a configuration: what is compared, and what is said of it.

use tollgate::config::{self, envoy};
use tollgate_core::policy::Policy;

const GOOD: &str = include_str!("tollgate.yaml");
const SHIPPED: &str = include_str!("../../envoy/envoy.yaml");

fn policy(text: &str) -> Policy {
    config::parse(text).unwrap_or_else(|problems| panic!("{problems}")).policy
}

/// What is said of the shipped file with one thing replaced.
fn told(from: &str, to: &str) -> String {
    assert_eq!(SHIPPED.matches(from).count(), 1, "{from}");
    let problems = envoy::compare(&policy(GOOD), &SHIPPED.replacen(from, to, 1)).unwrap_err();
    problems.to_string()
}

#[test]
fn the_shipped_file_fits_and_has_the_very_expression_that_is_printed() {
    let policy = policy(GOOD);
    envoy::compare(&policy, SHIPPED).unwrap();
    let file: serde_json::Value = serde_saphyr::from_str(SHIPPED).unwrap();
    assert!(file.to_string().contains(&envoy::allow_expression(&policy)), "{}", envoy::allow_expression(&policy));
}

#[test]
fn what_envoy_must_be_told_to_take_the_expression_is_said_unless_the_file_tells_it() {
    const TOLD: &str = "static_layer: {re2.max_program_size.error_level: 1000}";
    let said = |layer: &str| envoy::missing_room(&policy(GOOD), &SHIPPED.replacen(TOLD, layer, 1)).unwrap();
    assert!(SHIPPED.contains(TOLD));
    for enough in [
        TOLD,
        "static_layer: {re2: {max_program_size: {error_level: 1000}}}",
        "static_layer: {re2.max_program_size: {error_level: 400, warn_level: 1}}",
    ] {
        assert_eq!(said(enough), None, "{enough}");
    }
    for (layer, known) in [
        ("static_layer: {}", "more than 100 instructions"),
        ("admin_layer: {}", "more than 100 instructions"),
        ("static_layer: {re2.max_program_size.warn_level: 1000}", "more than 100 instructions"),
        ("static_layer: {re2.max_program_size.error_level: 120}", "more than 120 instructions"),
    ] {
        let said = said(layer).unwrap_or_default();
        assert!(said.contains(known) && said.contains("re2.max_program_size.error_level: 1000"), "{layer}: {said}");
    }
}

#[test]
fn what_envoy_would_not_do_is_told() {
    const RULES: &str =
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[1].typed_config";
    for (from, to, phrase) in [
        ("disallow_is_error: {value: true}", "disallow_is_error: {value: false}", "reaches the back end"),
        ("                        disallow_is_error: {value: true}\n", "", "write `disallow_is_error: {value: true}`"),
        ("|x[[:punct:]]api[[:punct:]]key", "|x-api-key", "`x_api_key`, another spelling of `x-api-key`, may not be"),
        (
            "|x[[:punct:]]tollgate[[:punct:]].*",
            "|x[[:punct:]]tollgate[[:punct:]]subject",
            "`x-tollgate-project` may not",
        ),
        ("regex: \"authorization", "regex: \"cookie", "`authorization` may not be changed by Tollgate"),
        ("regex: \"authorization", "regex: \"(authorization", "cannot be read"),
        ("encode_raw_headers: true", "allowed_headers: {patterns: [{exact: authorization}]}", "withholds headers"),
        ("encode_raw_headers: true", "disallowed_headers: {patterns: [{prefix: x-t}]}", "withholds headers"),
    ] {
        let told = told(from, to);
        assert!(told.contains(RULES) && told.contains(phrase), "{to}: {told}");
    }
    let denied = told("disallow_all: {value: true}", "disallow_expression: {regex: \"x-.*\"}");
    assert!(denied.contains("`x-api-key` may not"), "{denied}");
    let none = envoy::compare(&policy(GOOD), "static_resources: {}").unwrap_err().to_string();
    assert!(none.contains("no HTTP filter"), "{none}");
    assert!(envoy::compare(&policy(GOOD), "a: [").is_err());
}
