//! The shipped files hold together: Envoy and Tollgate accept each pair, and the examples do not drift from the hardened
//! original.

use std::process::Command;

use serde_json::Value;

use super::harness::{clean_command, envoy_binary, shipped};

const FOLDERS: [&str; 3] = ["", "inferencekey", "aigne-hub"];

#[test]
fn envoy_and_tollgate_accept_every_pair() {
    for folder in FOLDERS {
        let folder = shipped().join(folder);
        let envoy = Command::new(envoy_binary())
            .args(["--mode", "validate", "--disable-hot-restart", "--log-level", "warning", "-c"])
            .arg(folder.join("envoy.yaml"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&envoy.stderr).into_owned();
        assert!(envoy.status.success(), "{}: {said}", folder.display());
        assert!(!said.contains("deprecated"), "{}: {said}", folder.display());
        let tollgate = clean_command(env!("CARGO_BIN_EXE_tollgate"))
            .args(["check-config", "--config"])
            .arg(folder.join("tollgate.yaml"))
            .output()
            .unwrap();
        assert!(tollgate.status.success(), "{}: {tollgate:?}", folder.display());
    }
}

fn envoy_file(folder: &str) -> Value {
    let text = std::fs::read_to_string(shipped().join(folder).join("envoy.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// The examples are the hardened original without Tollgate's own API behind it.
#[test]
fn the_examples_are_as_hard_as_the_original() {
    let mut original = envoy_file("");
    let resources = &mut original["static_resources"];
    let clusters = resources["clusters"].as_array_mut().unwrap();
    clusters.retain(|cluster| cluster["name"] != "tollgate_admin");
    let filters = &mut resources["listeners"][0]["filter_chains"][0]["filters"];
    let host = &mut filters[0]["typed_config"]["route_config"]["virtual_hosts"][0];
    let routes = host["routes"].as_array_mut().unwrap();
    let before = routes.len();
    routes.retain(|route| route["route"]["cluster"] != "tollgate_admin");
    assert_eq!(routes.len(), before - 1);
    for folder in &FOLDERS[1..] {
        assert!(envoy_file(folder) == original, "{folder}/envoy.yaml is not envoy.yaml without Tollgate's own API");
    }
}

/// What keeps the authorization from being walked around, each line of it.
#[test]
fn the_hardening_is_there() {
    let text = std::fs::read_to_string(shipped().join("envoy.yaml")).unwrap();
    for line in [
        "normalize_path: true",
        "merge_slashes: true",
        "path_with_escaped_slashes_action: REJECT_REQUEST",
        "headers_with_underscores_action: REJECT_REQUEST",
        "use_remote_address: true",
        "request_trailers_mutations:",
        "failure_mode_allow: false",
        "status_on_error: {code: ServiceUnavailable}",
        "encode_raw_headers: true",
        "validate_mutations: true",
        "decoder_header_mutation_rules:",
        "max_retries: 1024",
        "enable_trailers: false",
        "allow_connect: false",
    ] {
        assert!(text.lines().any(|known| known.contains(line) && !known.trim_start().starts_with('#')), "{line}");
    }
    for absent in ["upgrade_configs", "connect_matcher", "failure_mode_allow: true", "disabled: true"] {
        let set = |line: &str| line.contains(absent) && !line.trim_start().starts_with('#');
        assert!(!text.lines().any(set), "{absent}");
    }
}
