//! The shipped files hold together: Envoy and Tollgate accept each pair, and the examples do not drift from the hardened
//! original.

use std::process::Command;

use serde_json::Value;

use super::harness::{clean_command, envoy_binary, shipped};

const FOLDERS: [&str; 5] = ["", "inferencekey", "aigne-hub", "inferno", "fleet"];
/// Without Tollgate's own API behind Envoy.
const WITHOUT_API: [&str; 2] = ["inferencekey", "aigne-hub"];

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
            .arg("--envoy")
            .arg(folder.join("envoy.yaml"))
            .output()
            .unwrap();
        assert!(tollgate.status.success(), "{}: {tollgate:?}", folder.display());
    }
}

fn envoy_file(folder: &str) -> Value {
    let text = std::fs::read_to_string(shipped().join(folder).join("envoy.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// The file without Tollgate's own API behind it, and what leads to that: its cluster and its routes.
fn without_api(folder: &str) -> (Value, Vec<Value>, Vec<Value>) {
    let mut file = envoy_file(folder);
    let resources = &mut file["static_resources"];
    let clusters = resources["clusters"].as_array_mut().unwrap();
    let cluster = clusters.extract_if(.., |cluster| cluster["name"] == "tollgate_admin").collect();
    let filters = &mut resources["listeners"][0]["filter_chains"][0]["filters"];
    let host = &mut filters[0]["typed_config"]["route_config"]["virtual_hosts"][0];
    let routes = host["routes"].as_array_mut().unwrap();
    let routes = routes.extract_if(.., |route| route["route"]["cluster"] == "tollgate_admin").collect();
    (file, cluster, routes)
}

#[test]
fn the_examples_are_as_hard_as_the_original() {
    let (original, cluster, routes) = without_api("");
    assert_eq!((cluster.len(), routes.len()), (1, 1));
    for folder in WITHOUT_API {
        assert!(envoy_file(folder) == original, "{folder}/envoy.yaml is not envoy.yaml without Tollgate's own API");
    }
    // Inferno differs in the paths that lead to Tollgate's own API.
    let (rest, same_cluster, more_routes) = without_api("inferno");
    assert!(rest == original && same_cluster == cluster, "inferno/envoy.yaml is not envoy.yaml");
    let matches: Vec<String> = more_routes.iter().map(|route| route["match"].to_string()).collect();
    assert_eq!(matches, [r#"{"path_separated_prefix":"/api/v1/auth"}"#, r#"{"path":"/.well-known/jwks.json"}"#]);
    for route in &more_routes {
        assert_eq!(route["route"], routes[0]["route"]);
        assert_eq!(route.as_object().unwrap().len(), 2, "nothing else is set for {route}");
    }
}

#[test]
fn a_fleet_differs_in_whom_it_asks_alone() {
    let (mut original, ..) = without_api("");
    let mut fleet = envoy_file("fleet");
    let asked = |file: &mut Value| {
        let listener = &mut file["static_resources"]["listeners"][0];
        let filters = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"];
        let service = &mut filters[1]["typed_config"]["grpc_service"];
        let (time, retries) = (service["timeout"].take(), service["retry_policy"].take());
        let cluster = &mut file["static_resources"]["clusters"][0];
        assert_eq!(cluster["name"], "tollgate");
        cluster["connect_timeout"].take();
        cluster["load_assignment"]["endpoints"].take();
        cluster.as_object_mut().unwrap().remove("health_checks");
        (time, retries["retry_on"].clone())
    };
    let ((_, retried), (time, also_retried)) = (asked(&mut original), asked(&mut fleet));
    assert!(fleet == original, "fleet/envoy.yaml differs from envoy.yaml elsewhere");
    // With a lease of 800 ms, the second in which a revocation holds.
    assert_eq!((time, also_retried), ("0.2s".into(), retried));
}

#[test]
fn the_files_of_a_fleet_are_as_the_page_says() {
    let file = |path: &str| std::fs::read_to_string(shipped().join(path)).unwrap();
    let (page, settings, script) = (file("../docs/fleet.md"), file("fleet/redis.conf"), file("fleet/secrets.sh"));
    for word in ["maxmemory-policy", "maxmemory ", "appendonly", "appendfsync"] {
        let line = page.lines().find(|line| line.starts_with(word)).unwrap();
        assert!(settings.lines().any(|set| set == line), "{line}");
    }
    let user = page.lines().map(str::trim).find(|line| line.starts_with("user tollgate")).unwrap();
    // The script has two parts of the line apart, to tell the lines of older releases.
    let value = |name: &str| {
        let told = script.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("='")?.strip_suffix('\''));
        told.unwrap_or_else(|| panic!("the script has no {name}"))
    };
    let whole = |line: &str| line.replace("$cluster", value("cluster")).replace("$since", value("since"));
    assert!(script.lines().any(|line| whole(line) == user.replace(">PASSWORD", "#$hash")), "{user}");
    let default = page.lines().map(str::trim).find(|line| line.starts_with("user default")).unwrap();
    assert!(script.lines().any(|line| line == format!("default='{default}'")), "{default}");
}

/// There is no Docker where the tests run: this is what they can see of it.
#[test]
fn what_compose_mounts_is_there() {
    let text = std::fs::read_to_string(shipped().join("../docker-compose.yml")).unwrap();
    let compose: Value = serde_saphyr::from_str(&text).unwrap();
    let services = compose["services"].as_object().unwrap();
    let fleet = services.iter().filter(|(name, _)| name.starts_with("fleet-"));
    assert_eq!(fleet.filter(|(_, service)| service["profiles"][0] == "fleet").count(), 7);
    for (name, service) in services {
        assert_eq!(
            (&service["cap_drop"][0], service["ports"].as_array().map_or(0, Vec::len) > 1),
            (&"ALL".into(), false)
        );
        for mount in service["volumes"].as_array().into_iter().flatten() {
            let source = mount.as_str().unwrap().split(':').next().unwrap();
            let known = match source.strip_prefix("./") {
                Some(path) => shipped().join("..").join(path).exists(),
                None => compose["volumes"].get(source).is_some(),
            };
            assert!(known, "{name}: {source}");
        }
        for other in service["depends_on"].as_object().into_iter().flat_map(serde_json::Map::keys) {
            assert!(services.contains_key(other), "{name}: {other}");
        }
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
        "cidr_ranges: [{address_prefix: 255.255.255.255, prefix_len: 32}]",
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
