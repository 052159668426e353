//! Projects, waiting and the fleet from outside.

use super::run;
use super::server::Server;

#[test]
fn projects_from_the_first_to_the_last() {
    let server = Server::start();
    let socket = server.socket();
    let on = |arguments: &[&str]| run(&[&["projects"], arguments, &["--socket", &socket]].concat());
    assert!(on(&["list"]).ends(0).err.contains("No project has a record yet"));
    assert!(on(&["show", "acme"]).ends(0).out.contains("State    active"));
    let suspended = on(&["suspend", "acme"]).ends(0);
    assert!(suspended.out.contains("suspended") && suspended.out.contains("by operator"), "{}", suspended.out);
    assert!(!suspended.err.contains("Confirmed"), "nobody waited");
    assert!(on(&["list"]).ends(0).out.contains("acme     suspended"));
    assert_eq!(on(&["resume", "acme", "-o", "json"]).ends(0).json()["state"], "active");
    on(&["resume", "acme"]).ends(0);
    let waited = on(&["suspend", "acme", "--wait"]).ends(0);
    assert!(waited.err.contains("Confirmed by 1 replica."), "{}", waited.err);
    let deleted = on(&["delete", "acme", "--wait=2s", "-o", "json"]).ends(0).json();
    assert_eq!((deleted["state"].as_str(), deleted["fleet"]["confirmed"].as_u64()), (Some("deleted"), Some(1)));
    assert!(on(&["resume", "acme"]).ends(5).err.contains("is deleted"));
    let create = ["keys", "create", "--name", "n", "--plane", "data", "--project", "acme", "--workloads", "*"];
    let create = [&create[..], &["--permissions", "run_inference", "--socket", &socket]].concat();
    assert!(run(&create).ends(5).err.contains("acme is deleted"));
    on(&["show", "a b"]).ends(5);
    on(&["suspend", "acme", "--wait=9s"]).ends(2);
    on(&["suspend"]).ends(2);

    let log = run(&["audit", "list", "--target", "project:acme", "-o", "json", "--socket", &socket]).ends(0).json();
    let acts: Vec<&str> = log["entries"].as_array().unwrap().iter().map(|row| row["act"].as_str().unwrap()).collect();
    assert_eq!(acts, ["project.delete", "project.suspend", "project.resume", "project.suspend"]);
}

#[test]
fn the_first_thing_makes_its_project_and_all_carry_its_id() {
    let server = Server::start();
    let socket = server.socket();
    let on = |arguments: &[&str]| run(&[arguments, &["-o", "json", "--socket", &socket]].concat()).ends(0).json();
    let create = ["keys", "create", "--name", "n", "--plane", "data", "--project", "acme", "--workloads", "*"];
    let first = on(&[&create[..], &["--permissions", "run_inference"]].concat());
    let acme = on(&["projects", "show", "acme"]);
    assert_eq!(
        (&acme["state"], &acme["changed_by"], &acme["version"]),
        (&"active".into(), &"operator".into(), &1.into())
    );
    let id = acme["id"].as_str().unwrap();
    assert_eq!(id.len(), 16);
    let put = ["resources", "put", "workload:w-1", "--project", "acme"];
    for made in [first, on(&[&create[..], &["--permissions", "run_inference"]].concat()), on(&put)] {
        assert_eq!(made["project_id"], id, "{made}");
    }
    assert_eq!(on(&["projects", "list"])["projects"].as_array().map(Vec::len), Some(1));
    let beta = on(&["projects", "create", "beta"]);
    assert_eq!(
        (&beta["state"], &beta["version"], beta["id"].as_str().map(str::len)),
        (&"active".into(), &1.into(), Some(16))
    );
    assert_eq!(on(&["resources", "put", "workload:w-2", "--project", "beta"])["project_id"], beta["id"]);
    for (name, code, reason) in [("beta", 5, "is there already"), ("acme", 5, "is there already"), ("a b", 5, "name")] {
        assert!(run(&["projects", "create", name, "--socket", &socket]).ends(code).err.contains(reason), "{name}");
    }
    assert!(run(&["projects", "show", "acme", "--socket", &socket]).ends(0).out.contains(id));
}

#[test]
fn a_change_is_confirmed_by_the_only_process_at_once() {
    let server = Server::start();
    let socket = server.socket();
    let on = |arguments: &[&str]| run(&[arguments, &["--socket", &socket]].concat());
    let create = ["keys", "create", "--name", "n", "--plane", "data", "--project", "acme", "--workloads", "*"];
    let create = [&create[..], &["--permissions", "run_inference", "-o", "json"]].concat();
    let made = on(&create).ends(0).json();
    let rotated = on(&["keys", "rotate", made["id"].as_str().unwrap(), "--wait", "-q"]).ends(0);
    assert!(rotated.out.starts_with("ik_live_") && rotated.err.contains("Confirmed by 1 replica."), "{}", rotated.err);
    let id = &rotated.out["ik_live_".len()..][..12];
    let revoked = on(&["keys", "revoke", id, "--wait=2s", "-o", "json"]).ends(0);
    let fleet = &revoked.json()["fleet"];
    assert_eq!((fleet["level"].as_str(), fleet["lagging"].as_array().map(Vec::len)), (Some("sole"), Some(0)));
    assert!(revoked.err.contains("Confirmed by 1 replica."), "{}", revoked.err);

    let seen = on(&["fleet", "-o", "json"]).ends(0).json();
    assert_eq!(seen["head"], fleet["sequence"]);
    assert_eq!(seen["replicas"].as_array().map(Vec::len), Some(1));
    let table = on(&["fleet"]).ends(0).out;
    let row: Vec<&str> = table.lines().last().unwrap().split_whitespace().skip(1).take(2).collect();
    assert!(table.starts_with("Level: sole\nNewest change: ") && row == ["*", "sole"], "{table}");
}
