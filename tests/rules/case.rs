//! The page, stepped through without a runtime: what it asks for and in which order, and that it answers as a straight line of the
//! same rules does.

use std::sync::Arc;

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::google::protobuf::value::Kind;
use prost::Message;
use tollgate::clock::Clock;
use tollgate::server::ext_authz::encode;
use tollgate_core::admit::{Admission, admit};
use tollgate_core::attributes::Attributes;
use tollgate_core::authorize::{Permit, Refused, authorize, qualify};
use tollgate_core::case::{Case, Need, Next, Opened};
use tollgate_core::decision::{Step, Tier, Trace};
use tollgate_core::denial::Denial;
use tollgate_core::policy::Policy;
use tollgate_core::principal::Principal;
use tollgate_core::resource::Resource;
use tollgate_core::respond::{self, Allow, Decision};
use tollgate_guard::slots::Touched;
use tollgate_guard::stamps::Stamps;
use tollgate_guard::time::Timestamp;

use crate::world::{HEAD, HOSTS, NOW, Request, compiled, found, holder, policy, principal, resource};

fn open<'r>(attributes: &'r Attributes<'r>) -> Case<'r> {
    match Case::open(policy(), attributes) {
        Opened::Case(case) => case,
        Opened::Decided(decision) => panic!("decided at once: {decision:?}"),
    }
}

fn denied(next: Next<'_>) -> (Denial, Step, Option<String>) {
    match next {
        Next::Decided(Decision::Deny(deny)) => {
            (deny.denial, deny.trace().step, deny.caller().map(|caller| caller.subject().into_owned()))
        }
        other => panic!("no denial: {other:?}"),
    }
}

#[test]
fn nothing_is_asked_for_a_public_route_or_for_junk() {
    for (method, target) in [("GET", "/open"), ("POST", "/nowhere"), ("POST", "/data")] {
        let request = Request::new(method, target);
        assert!(matches!(Case::open(policy(), &request.attributes()), Opened::Decided(_)), "{target}");
    }
}

#[test]
fn a_denial_says_who_asked_and_which_step_refused() {
    let stamps = Stamps::sole(Clock::System);
    let of = |denial, step, caller: Option<&str>| (denial, step, caller.map(str::to_owned));
    let key = principal(&holder("control", &["write"])).unwrap();
    let subject = key.subject().into_owned();
    let nobody = principal(&holder("control", &[])).unwrap();

    let request = Request::new("PATCH", "/r/w1").bearing("ik_sdk");
    let attributes = request.attributes();
    let unknown = open(&attributes).principal(None, Tier::Store, NOW);
    assert_eq!(denied(unknown), of(Denial::CredentialUnknown, Step::Resolve, None));
    assert_eq!(denied(open(&attributes).failed(Denial::Unavailable)), of(Denial::Unavailable, Step::Resolve, None));
    // Nothing is looked up for who could not have it.
    let lacking = open(&attributes).principal(Some(found(&stamps, nobody)), Tier::Store, NOW);
    assert_eq!(denied(lacking), of(Denial::PermissionMissing, Step::Authorize, Some(&subject)));

    let mut case = open(&attributes);
    let next = case.principal(Some(found(&stamps, Arc::clone(&key))), Tier::Store, NOW);
    assert!(
        matches!(next, Next::Need(Need::Resource(reference)) if (reference.kind, reference.id) == ("workload", "w1"))
    );
    let unregistered = case.resource(None, Tier::Store, NOW);
    assert_eq!(denied(unregistered), of(Denial::ResourceOutOfScope, Step::Authorize, Some(&subject)));

    let mut case = open(&attributes);
    assert!(matches!(case.principal(Some(found(&stamps, key)), Tier::Store, NOW), Next::Need(Need::Resource(_))));
    assert_eq!(denied(case.failed(Denial::Unavailable)), of(Denial::Unavailable, Step::Resolve, Some(&subject)));
    // Whoever says what was not asked gets nothing.
    let resource = found(&stamps, Arc::new(resource("w1", "chat", "acme")));
    assert_eq!(denied(open(&attributes).resource(Some(resource), Tier::Store, NOW)).0, Denial::Internal);
    assert_eq!(denied(open(&attributes).confirm(&stamps)).0, Denial::Internal);
}

#[test]
fn what_a_change_has_touched_is_looked_up_again_and_refused_the_third_time() {
    let stamps = Stamps::sole(Clock::System);
    let key = principal(&holder("data", &["run"])).unwrap();
    let request = Request::new("POST", "/data").bearing("ik_live");
    let attributes = request.attributes();
    for changes in 0..=3 {
        let mut case = open(&attributes);
        let mut next = Next::Need(case.need());
        for looked in 1.. {
            assert!(matches!(next, Next::Need(Need::Key(_))));
            let judged = case.principal(Some(found(&stamps, Arc::clone(&key))), Tier::Cache, NOW);
            assert!(matches!(judged, Next::Confirm));
            if looked <= changes {
                stamps.apply(looked, &Touched::All);
            }
            next = case.confirm(&stamps);
            if let Next::Decided(decision) = &next {
                assert_eq!((looked, matches!(decision, Decision::Allow(_))), (3.min(changes + 1), changes < 3));
                break;
            }
        }
        if changes == 3 {
            let subject = Some(key.subject().into_owned());
            assert_eq!(denied(next), (Denial::Unavailable, Step::Resolve, subject));
        }
    }
}

/// The straight line.
fn straight<'r>(
    policy: &'r Policy,
    request: &'r Attributes<'r>,
    holder: Option<&Arc<Principal>>,
    resource: Option<&Resource>,
    now: Timestamp,
) -> Decision<'r> {
    let (mut trace, mut caller) = (Trace::begin(), None);
    let stamps = Stamps::sole(Clock::System);
    let mut judge = || -> Result<Permit<'r>, Denial> {
        let ask = match admit(policy, request, &mut trace)? {
            Admission::Public(permit) => return Ok(permit),
            Admission::Guarded(ask) => ask,
        };
        let holder = holder.ok_or(Denial::CredentialUnknown)?;
        caller = Some(Arc::clone(holder));
        let mut thing = None;
        if let Some(reference) = ask.resource() {
            qualify(&ask, holder, now)?;
            thing = resource.filter(|known| known.reference() == reference).cloned().map(Arc::new);
        }
        let thing = thing.map(|thing| found(&stamps, thing));
        let judged = authorize(&ask, found(&stamps, Arc::clone(holder)), thing, now);
        let judged = judged.map_err(|Refused { denial, .. }| denial)?;
        stamps.confirm(judged, ask.grace()).map(Permit::from).map_err(|_| Denial::Unavailable)
    };
    match judge() {
        Ok(permit) => respond::allow(policy, request, permit, trace),
        Err(denial) => respond::deny(policy, request, denial, trace, caller),
    }
}

/// The bytes of the page's answer.
fn stepped(
    policy: &Arc<Policy>,
    request: &Attributes<'_>,
    holder: Option<&Arc<Principal>>,
    resource: Option<&Resource>,
) -> Vec<u8> {
    let (stamps, mut bytes) = (Stamps::sole(Clock::System), Vec::new());
    let mut case = match Case::open(policy, request) {
        Opened::Case(case) => case,
        Opened::Decided(decision) => {
            encode::response(policy, &decision, &mut bytes);
            return bytes;
        }
    };
    let mut next = Next::Need(case.need());
    loop {
        next = match next {
            Next::Need(Need::Key(_) | Need::Token(_)) => {
                case.principal(holder.map(|holder| found(&stamps, Arc::clone(holder))), Tier::Cache, NOW)
            }
            Next::Need(Need::Resource(reference)) => {
                let known = resource.filter(|known| known.reference() == reference).cloned();
                case.resource(known.map(|known| found(&stamps, Arc::new(known))), Tier::Cache, NOW)
            }
            Next::Confirm => case.confirm(&stamps),
            Next::Decided(decision) => {
                encode::response(policy, &decision, &mut bytes);
                return bytes;
            }
        }
    }
}

/// What an allow sets, removes and tells, in order.
type Said = (Vec<(String, String)>, Vec<String>, Vec<(String, String)>);

fn in_order((mut set, mut removed, mut told): Said) -> Said {
    set.sort();
    removed.sort();
    told.sort();
    (set, removed, told)
}

/// As Envoy reads it.
fn said(response: &[u8]) -> Said {
    let response = CheckResponse::decode(response).unwrap();
    let Some(HttpResponse::OkResponse(allowed)) = response.http_response else { panic!("not an allow") };
    let set = allowed.headers.into_iter().filter_map(|option| option.header);
    let told = response.dynamic_metadata.unwrap_or_default().fields.into_iter().map(|(name, value)| match value.kind {
        Some(Kind::StringValue(text)) => (name, text),
        other => panic!("{name}: {other:?}"),
    });
    in_order((set.map(|header| (header.key, header.value)).collect(), allowed.headers_to_remove, told.collect()))
}

/// As the decision has it.
fn said_by(allow: &Allow<'_>) -> Said {
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let removed = allow.headers_to_remove().map(str::to_owned).collect();
    in_order((allow.headers_to_set().map(pair).collect(), removed, allow.metadata().map(pair).collect()))
}

/// Some of many, the same ones each time.
struct Choice(u64);

impl Choice {
    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        from[(self.0 >> 33) as usize % from.len()]
    }
}

/// `TOLLGATE_TEST_FULL=1` tries 100,000.
#[test]
fn the_page_answers_as_the_straight_line_of_its_rules() {
    const ALL: &[&str] = &["run", "read", "write", "tune", "manage_keys"];
    let full = std::env::var_os("TOLLGATE_TEST_FULL").is_some();
    let count = if full { 100_000 } else { 10_000 };
    let past = Some(Timestamp::from_secs(1));
    let mut choice = Choice(7);
    let (mut allowed, mut reasons) = (0, std::collections::HashSet::new());
    for _ in 0..count {
        // Mostly what belongs together.
        let (method, target, prefix, plane) = choice.of(&[
            ("GET", "/open", "ik_live", "data"),
            ("POST", "/nowhere", "ik_live", "data"),
            ("POST", "/a//b", "ik_live", "data"),
            ("POST", "/data", "ik_live", "data"),
            ("POST", "/tokens", "ik_live", "data"),
            ("POST", "/browser", "ik_live", "data"),
            ("POST", "/both", "ik_live", "data"),
            ("POST", "/any", "ik_live", "data"),
            ("POST", "/own", "ik_live", "data"),
            ("POST", "/p/acme", "ik_live", "data"),
            ("POST", "/p/beta/w/chat", "ik_live", "data"),
            ("POST", "/openai", "ik_live", "data"),
            ("POST", "/grpc", "ik_live", "data"),
            ("POST", "/control", "ik_sdk", "control"),
            ("PATCH", "/r/w1", "ik_sdk", "control"),
            ("PATCH", "/r/w2", "ik_sdk", "control"),
            ("POST", "/admin", "ik_adm", "admin"),
            ("POST", "/t/acme", "ik_adm", "admin"),
            ("PATCH", "/t/w1", "ik_adm", "admin"),
        ]);
        let method = choice.of(&[method, method, method, method, method, "GET"]);
        let host = choice.of(&["api.test", "api.test", "api.test", "api.test", "a.tenants.test"]);
        let mut request = Request::new(method, target).on(host);
        for _ in 0..choice.of(&[0, 1, 1, 1, 1, 1, 1, 2]) {
            request = request.bearing(choice.of(&[prefix, prefix, prefix, prefix, "ik_live", "other"]));
        }
        if choice.of(&[true, false, false, false]) {
            request = request.with("origin", "https://a.test");
        }
        let mut key =
            holder(choice.of(&[plane, plane, plane, plane, "data"]), choice.of(&[ALL, ALL, ALL, &["run"], &[]]));
        key.project = choice.of(&["acme", "acme", "acme", "beta", "*", ""]).to_owned();
        key.workloads = vec![choice.of(&["*", "*", "chat"]).to_owned()];
        for end in [&mut key.revoked_at, &mut key.expires_at, &mut key.retires_at] {
            *end = past.filter(|_| choice.of(&[true, false, false, false, false, false, false, false]));
        }
        let holder = Some(key).filter(|_| choice.of(&[true, true, true, true, true, false]));
        let Ok(holder) = holder.as_ref().map(principal).transpose() else { continue };
        let thing = resource(choice.of(&["w1", "w2"]), choice.of(&["chat", "rank"]), choice.of(&["acme", "beta"]));
        let thing = Some(&thing).filter(|_| choice.of(&[true, true, false]));

        let attributes = request.attributes();
        let decision = straight(policy(), &attributes, holder.as_ref(), thing, NOW);
        let mut expected = Vec::new();
        encode::response(policy(), &decision, &mut expected);
        assert_eq!(stepped(policy(), &attributes, holder.as_ref(), thing), expected, "{request:?}");
        match decision {
            Decision::Allow(allow) => {
                assert_eq!(said(&expected), said_by(&allow), "{request:?}");
                allowed += 1;
            }
            Decision::Deny(deny) => {
                reasons.insert(deny.denial);
            }
        }
    }
    assert!(allowed > count / 20 && reasons.len() >= 16, "{allowed} of {count}, {} reasons", reasons.len());
}

#[test]
fn what_allows_have_in_common_is_of_one_policy_route_and_grant() {
    let renamed = "identity: {headers: {plane: x-tollgate-level, permissions: null}}";
    let renamed = Arc::new(compiled(&format!("{HEAD}{renamed}{HOSTS}")));
    let holders = [("data", &["run"][..]), ("data", &["read", "run"]), ("control", &["write"])];
    let holders = holders.map(|(plane, permissions)| principal(&holder(plane, permissions)).unwrap());
    let mut allowed = 0;
    // What comes twice in a row is written once.
    for policy in [policy(), policy(), &renamed, &renamed, policy(), &renamed, policy(), policy()] {
        let routes = [("/data", "ik_live"), ("/own", "ik_live"), ("/control", "ik_sdk"), ("/open", "")];
        for (holder, (target, prefix)) in holders.iter().flat_map(|holder| routes.map(|route| (holder, route))) {
            let request = match prefix {
                "" => Request::new("GET", target),
                prefix => Request::new("POST", target).bearing(prefix),
            };
            let attributes = request.attributes();
            for _ in 0..3 {
                let answer = stepped(policy, &attributes, Some(holder), None);
                if let Decision::Allow(allow) = straight(policy, &attributes, Some(holder), None, NOW) {
                    assert_eq!(said(&answer), said_by(&allow), "{target}");
                    allowed += 1;
                }
            }
        }
    }
    assert_eq!(allowed, 8 * 3 * (2 + 2 + 1 + 3));
}
