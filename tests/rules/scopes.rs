//! Who may have what: permissions, projects, workloads, resources, and for how long.

use tollgate::clock::Clock;
use tollgate::domain::record::ApiKey;
use tollgate_core::credential::ProjectId;
use tollgate_core::denial::Denial;
use tollgate_core::resource::Resource;
use tollgate_guard::time::Timestamp;

use crate::world::{NOW, Request, decide, found, holder, policy, principal, resource, workloads};

fn denial(target: &str, holder: &ApiKey) -> Option<Denial> {
    decide(policy(), &Request::new("POST", target).bearing("ik_live"), Some(holder), None, NOW).denial()
}

#[test]
fn permissions_all_and_any() {
    let missing = Some(Denial::PermissionMissing);
    for (target, permissions, expected) in [
        ("/data", &["run"][..], None),
        ("/data", &["read", "run", "write"], None),
        ("/data", &[], missing),
        ("/data", &["read"], missing),
        ("/data", &["ru"], missing),
        ("/data", &["run2"], missing),
        ("/any", &["write"], None),
        ("/any", &["tune", "write"], None),
        ("/any", &["run"], missing),
        ("/any", &[], missing),
        ("/both", &["read", "run", "tune"], None),
        ("/both", &["read", "run"], missing),
        ("/both", &["read", "tune"], missing),
        ("/both", &["tune", "write"], missing),
    ] {
        assert_eq!(denial(target, &holder("data", permissions)), expected, "{target} with {permissions:?}");
    }
}

#[test]
fn projects_and_workloads() {
    let project = Some(Denial::ProjectOutOfScope);
    let workload = Some(Denial::WorkloadOutOfScope);
    let all: &[&str] = &["*"];
    for (target, held, expected) in [
        // The project as a whole is for keys of all its workloads.
        ("/data", all, None),
        ("/data", &["chat"], workload),
        ("/data", &["chat", "rank"], workload),
        ("/data", &[], workload),
        ("/p/acme", all, None),
        ("/p/acme", &["chat"], workload),
        ("/p/acme", &[], workload),
        ("/p/beta", all, project),
        ("/p/beta", &["chat"], project),
        ("/p/Acme", all, project),
        ("/p/acme2", all, project),
        ("/p/acm", all, project),
        ("/p/*", all, project),
        ("/p/acme%20", all, project),
        // One workload is for keys that name it, or all.
        ("/p/acme/w/chat", all, None),
        ("/p/acme/w/chat", &["chat"], None),
        ("/p/acme/w/chat", &["chat", "rank"], None),
        ("/p/acme/w/rank", &["chat", "rank"], None),
        ("/p/acme/w/chat", &["rank"], workload),
        ("/p/acme/w/cha", &["chat"], workload),
        ("/p/acme/w/chat2", &["chat"], workload),
        ("/p/acme/w/Chat", &["chat"], workload),
        ("/p/acme/w/chat", &[], workload),
        ("/p/acme/w/*", all, workload),
        ("/p/acme/w/*", &["chat"], workload),
        ("/p/acme/w/chat,rank", &["chat", "rank"], workload),
        ("/p/beta/w/chat", all, project),
        ("/p/beta/w/chat", &["chat"], project),
        ("/fixed", all, None),
        ("/fixed", &["chat"], None),
        ("/fixed", &["rank"], workload),
        // The workload that the key is bound to.
        ("/own", all, None),
        ("/own", &["chat"], None),
        ("/own", &["chat", "rank"], workload),
        ("/own", &[], workload),
    ] {
        assert_eq!(denial(target, &workloads(holder("data", &["run"]), held)), expected, "{target} with {held:?}");
    }
    let elsewhere = ApiKey { project: "beta".to_owned(), ..holder("data", &["run"]) };
    assert_eq!(denial("/fixed", &elsewhere), project);
    assert_eq!(denial("/p/beta", &elsewhere), None);
}

#[test]
fn the_project_in_the_host() {
    let (policy, holder) = (policy(), holder("data", &["run"]));
    for (host, expected) in [
        ("acme.tenants.test", None),
        ("acme.tenants.test:8443", None),
        ("acme.eu.tenants.test", None),
        ("beta.tenants.test", Some(Denial::ProjectOutOfScope)),
        ("beta.acme.tenants.test", Some(Denial::ProjectOutOfScope)),
        ("ACME.tenants.test", Some(Denial::ProjectOutOfScope)),
        ("tenants.test", Some(Denial::HostUnknown)),
        ("acme.tenants.test.", Some(Denial::HostUnknown)),
        ("acme.tenants.test,beta.tenants.test", Some(Denial::HostUnknown)),
    ] {
        let request = Request::new("POST", "/data").on(host).bearing("ik_live");
        assert_eq!(decide(policy, &request, Some(&holder), None, NOW).denial(), expected, "{host}");
    }
}

#[test]
fn registered_resources() {
    let policy = policy();
    let out = Some(Denial::ResourceOutOfScope);
    let all: &[&str] = &["*"];
    for (held, found, expected) in [
        (all, Some(resource("w1", "chat", "acme")), None),
        (&["chat"], Some(resource("w1", "chat", "acme")), None),
        (&["rank"], Some(resource("w1", "chat", "acme")), out),
        (&["w1"], Some(resource("w1", "chat", "acme")), out),
        (&[], Some(resource("w1", "chat", "acme")), out),
        (all, Some(resource("w1", "chat", "beta")), out),
        (&["chat"], Some(resource("w1", "chat", "beta")), out),
        (all, None, out),
    ] {
        let request = Request::new("PATCH", "/r/w1").bearing("ik_sdk");
        let holder = workloads(holder("control", &["write"]), held);
        let denial = decide(policy, &request, Some(&holder), found.as_ref(), NOW).denial();
        assert_eq!(denial, expected, "{held:?} on {found:?}");
    }
    // Of the project that has the name, or of one that had it.
    let ids = [None, ProjectId::parse("0000000000000001"), ProjectId::parse("0000000000000002")];
    for (own, its, expected) in [(1, 1, None), (1, 2, out), (2, 1, out), (0, 1, None), (1, 0, None), (0, 0, None)] {
        let request = Request::new("PATCH", "/r/w1").bearing("ik_sdk");
        let holder = ApiKey { project_id: ids[own], ..holder("control", &["write"]) };
        let found = Resource { project_id: ids[its], ..resource("w1", "chat", "acme") };
        assert_eq!(decide(policy, &request, Some(&holder), Some(&found), NOW).denial(), expected, "{own} {its}");
    }
    for odd in ["/r/*", "/r/w1%20", "/r/-w1"] {
        let request = Request::new("PATCH", odd).bearing("ik_sdk");
        assert_eq!(decide(policy, &request, Some(&holder("control", &["write"])), None, NOW).denial(), out, "{odd}");
    }
}

#[test]
fn the_wrong_resource_is_no_proof() {
    use std::sync::Arc;
    use tollgate_core::admit::{Admission, admit};
    use tollgate_core::authorize::authorize;
    use tollgate_core::decision::Trace;
    use tollgate_guard::stamps::Stamps;

    let (policy, request) = (policy(), Request::new("PATCH", "/r/w1").bearing("ik_sdk"));
    let attributes = request.attributes();
    let Ok(Admission::Guarded(ask)) = admit(policy, &attributes, &mut Trace::begin()) else { panic!("not admitted") };
    let (principal, stamps) = (principal(&holder("control", &["write"])).unwrap(), Stamps::sole(Clock::System));
    let mut other_kind = resource("w1", "chat", "acme");
    other_kind.kind = "run".to_owned();
    for wrong in [resource("w2", "chat", "acme"), other_kind] {
        let (principal, wrong) = (found(&stamps, Arc::clone(&principal)), found(&stamps, Arc::new(wrong)));
        let refused = authorize(&ask, principal, Some(wrong), NOW).unwrap_err();
        assert_eq!(refused.denial, Denial::ResourceOutOfScope);
    }
}

#[test]
fn a_key_for_every_project_is_for_admin_planes() {
    let policy = policy();
    let every = |plane: &str| ApiKey { project: "*".to_owned(), ..holder(plane, &["manage_keys", "run", "write"]) };
    for (method, target, prefix, plane, expected) in [
        ("POST", "/admin", "ik_adm", "admin", None),
        ("POST", "/t/beta", "ik_adm", "admin", None),
        ("POST", "/t/*", "ik_adm", "admin", Some(Denial::ProjectOutOfScope)),
        ("PATCH", "/t/w1", "ik_adm", "admin", None),
        ("PATCH", "/t/w9", "ik_adm", "admin", Some(Denial::ResourceOutOfScope)),
        ("POST", "/data", "ik_live", "data", Some(Denial::ProjectOutOfScope)),
        ("POST", "/p/acme", "ik_live", "data", Some(Denial::ProjectOutOfScope)),
        ("PATCH", "/r/w1", "ik_sdk", "control", Some(Denial::ProjectOutOfScope)),
    ] {
        let request = Request::new(method, target).bearing(prefix);
        let found = resource("w1", "chat", "acme");
        let answer = decide(policy, &request, Some(&every(plane)), Some(&found), NOW);
        assert_eq!(answer.denial(), expected, "{method} {target}");
        let told = match (method, target) {
            ("POST", "/t/beta") => Some("beta"),
            ("PATCH", "/t/w1") => Some("acme"),
            _ => None,
        };
        assert_eq!(answer.told("x-tollgate-project"), told, "{method} {target}");
    }
    let own = ApiKey { project: "acme".to_owned(), ..every("admin") };
    let request = Request::new("POST", "/t/beta").bearing("ik_adm");
    assert_eq!(decide(policy, &request, Some(&own), None, NOW).denial(), Some(Denial::ProjectOutOfScope));
}

#[test]
fn the_last_moment_of_a_key() {
    let at = |end: Timestamp, now: Timestamp, retires: bool| {
        let mut key = holder("data", &["run"]);
        if retires {
            key.retires_at = Some(end);
        } else {
            key.expires_at = Some(end);
        }
        decide(policy(), &Request::new("POST", "/data").bearing("ik_live"), Some(&key), None, now).denial()
    };
    let moment = |millis: u64| Timestamp::from_millis(1_000_000 + millis);
    for (retires, denial) in [(false, Denial::Expired), (true, Denial::RetiredUnauthenticated)] {
        assert_eq!(at(moment(500), moment(499), retires), None);
        assert_eq!(at(moment(500), moment(500), retires), Some(denial));
        assert_eq!(at(moment(500), moment(501), retires), Some(denial));
    }
}

#[test]
fn revoked_and_retired_by_plane() {
    let policy = policy();
    let past = Some(Timestamp::from_secs(1));
    for (plane, prefix, permission, status) in
        [("data", "ik_live", "run", 401), ("control", "ik_sdk", "write", 403), ("admin", "ik_adm", "manage_keys", 401)]
    {
        let key = holder(plane, &[permission]);
        let request = Request::new("POST", &format!("/{plane}")).bearing(prefix);
        let status_of = |key: &ApiKey| decide(policy, &request, Some(key), None, NOW).status();
        assert_eq!(status_of(&key), 200);
        assert_eq!(status_of(&ApiKey { revoked_at: past, ..key.clone() }), status, "{plane} revoked");
        assert_eq!(status_of(&ApiKey { retires_at: past, ..key.clone() }), status, "{plane} retired");
        assert_eq!(status_of(&ApiKey { expires_at: past, ..key.clone() }), 401, "{plane} expired");
        // Revoked says more than expired, and expired more than retired.
        let all = ApiKey { revoked_at: past, expires_at: past, retires_at: past, ..key.clone() };
        assert_eq!(status_of(&all), status);
        assert_eq!(status_of(&ApiKey { expires_at: past, retires_at: past, ..key.clone() }), 401);
        // Whether a key stands comes before what it may do.
        assert_eq!(status_of(&ApiKey { revoked_at: past, permissions: Vec::new(), ..key }), status);
    }
}

#[test]
fn records_that_no_rule_would_have_let_in() {
    let policy = policy();
    let request = Request::new("POST", "/data").bearing("ik_live");
    let key = holder("data", &["run"]);
    for damaged in [
        ApiKey { project: "a\r\nb".to_owned(), ..key.clone() },
        ApiKey { project: String::new(), ..key.clone() },
        ApiKey { permissions: vec!["run,write".to_owned()], ..key.clone() },
        ApiKey { permissions: vec!["*".to_owned()], ..key.clone() },
        ApiKey { workloads: vec!["*".to_owned(), "a".to_owned()], ..key.clone() },
        ApiKey { workloads: vec![String::new()], ..key },
    ] {
        let answer = decide(policy, &request, Some(&damaged), None, NOW);
        assert_eq!((answer.denial(), answer.status()), (Some(Denial::Internal), 500));
    }
}
