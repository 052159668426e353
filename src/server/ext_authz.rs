//! `envoy.service.auth.v3.Authorization/Check`: the bytes of a question to the bytes of an answer. Never answers with an
//! allow that the pipeline did not give, whatever happens on the way: a panic is a denial of that one request.

pub mod encode;
#[cfg(test)]
mod typed;
pub mod wire;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tollgate_core::attributes::Attributes;
use tollgate_core::decision::Trace;
use tollgate_core::denial::Denial;
use tollgate_core::policy::Policy;
use tollgate_core::respond::{self, Decision};

use crate::pipeline::Pipeline;
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;

/// The service's full name, as paths, health and reflection use it.
pub const SERVICE: &str = "envoy.service.auth.v3.Authorization";
/// The path of its one method.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Answers checks. Cheap to clone.
#[derive(Clone)]
pub struct CheckService {
    /// Replaced on reload.
    policy: Arc<ArcSwap<Policy>>,
    pipeline: Pipeline,
    telemetry: Arc<Telemetry>,
}

impl fmt::Debug for CheckService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckService")
    }
}

impl CheckService {
    pub fn new(policy: Arc<ArcSwap<Policy>>, pipeline: Pipeline, telemetry: Arc<Telemetry>) -> Self {
        Self { policy, pipeline, telemetry }
    }

    /// Whether what is cached may be answered from.
    pub fn is_leased(&self) -> bool {
        self.pipeline.is_leased()
    }

    /// The long tasks of this process.
    pub fn tasks(&self) -> &Tasks {
        self.pipeline.tasks()
    }

    /// Answers one `CheckRequest`, and appends the `CheckResponse` to `answer`. Whether it is an allow for somebody who was
    /// told by a credential.
    pub async fn check(&self, message: &[u8], answer: &mut Vec<u8>) -> bool {
        let before = answer.len();
        // Nothing that the catch leaves half done is seen again: the answer is cut back, all else is of this call.
        let caught = AssertUnwindSafe(self.decide(message, answer)).catch_unwind().await;
        caught.unwrap_or_else(|_| self.deny_panicked(message, answer, before))
    }

    /// The same without waiting for anything; `None`, and nothing is appended, if something that it takes is not cached.
    pub fn check_cached(&self, message: &[u8], answer: &mut Vec<u8>) -> Option<bool> {
        let before = answer.len();
        let caught = catch_unwind(AssertUnwindSafe(|| self.decide_cached(message, answer)));
        caught.unwrap_or_else(|_| Some(self.deny_panicked(message, answer, before)))
    }

    async fn decide(&self, message: &[u8], answer: &mut Vec<u8>) -> bool {
        let (arrival, policy) = (Instant::now(), self.policy.load());
        let Ok(request) = wire::read(message) else { return self.deny(&[], Denial::CheckUnreadable, answer) };
        let decision = self.pipeline.decide(&policy, &request).await;
        self.finish(&policy, &decision, &request, arrival, answer)
    }

    fn decide_cached(&self, message: &[u8], answer: &mut Vec<u8>) -> Option<bool> {
        let (arrival, policy) = (Instant::now(), self.policy.load());
        let Ok(request) = wire::read(message) else { return Some(self.deny(&[], Denial::CheckUnreadable, answer)) };
        let decision = self.pipeline.decide_cached(&policy, &request)?;
        Some(self.finish(&policy, &decision, &request, arrival, answer))
    }

    fn finish(
        &self,
        policy: &Arc<Policy>,
        decision: &Decision<'_>,
        request: &Attributes<'_>,
        arrival: Instant,
        answer: &mut Vec<u8>,
    ) -> bool {
        encode::response(policy, decision, answer);
        self.telemetry.record(policy, decision, request, arrival.elapsed());
        matches!(decision, Decision::Allow(allow) if allow.permit().principal().is_some())
    }

    /// The answer to a check that panicked, in place of what was appended behind `before`.
    fn deny_panicked(&self, message: &[u8], answer: &mut Vec<u8>, before: usize) -> bool {
        tracing::error!("a check panicked and was denied");
        answer.truncate(before);
        if catch_unwind(AssertUnwindSafe(|| self.deny(message, Denial::Internal, answer))).is_err() {
            answer.truncate(before);
            answer.extend_from_slice(encode::LAST_RESORT);
        }
        false
    }

    /// The answer to a check that is not decided by its request.
    fn deny(&self, message: &[u8], denial: Denial, answer: &mut Vec<u8>) -> bool {
        let (arrival, policy) = (Instant::now(), self.policy.load());
        let request = wire::read(message).unwrap_or_default();
        let decision = respond::deny(&policy, &request, denial, Trace::begin(), None);
        self.finish(&policy, &decision, &request, arrival, answer)
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
    use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse, DeniedHttpResponse};
    use prost::Message;

    use crate::server::testing::{BROKEN_PATH, Fixture, NOT_OUR_PATH, OUR_PATH, PATH, check_of};

    async fn ask(fixture: &Fixture, message: &[u8]) -> CheckResponse {
        let mut answer = b"before".to_vec();
        fixture.service.check(message, &mut answer).await;
        assert!(answer.len() < 1024, "{} bytes", answer.len());
        CheckResponse::decode(answer.strip_prefix(b"before").unwrap()).unwrap()
    }

    fn denied(response: CheckResponse) -> (i32, i32, DeniedHttpResponse) {
        let Some(HttpResponse::DeniedResponse(refusal)) = response.http_response else { panic!("{response:?}") };
        (refusal.status.unwrap().code, response.status.unwrap().code, refusal)
    }

    #[tokio::test]
    async fn an_allowed_check_sets_identity_and_removes_the_credential() {
        let fixture = Fixture::new().await;
        let message = check_of(PATH, &fixture.key).encode_to_vec();
        for _ in 0..2 {
            let response = ask(&fixture, &message).await;
            assert_eq!(response.status.unwrap().code, 0);
            let Some(HttpResponse::OkResponse(allowed)) = response.http_response else { panic!("not allowed") };
            let set: Vec<_> = allowed.headers.iter().filter_map(|option| option.header.as_ref()).collect();
            assert!(set.iter().any(|header| header.key == "x-tollgate-project" && header.value == "acme"));
            for name in ["authorization", "x-api-key", "x-tollgate-workload", "X_Tollgate_Other"] {
                assert!(allowed.headers_to_remove.iter().any(|removed| removed == name), "{name}");
            }
            let both = set.iter().filter(|header| allowed.headers_to_remove.contains(&header.key));
            assert_eq!(both.count(), 0);
            assert!(response.dynamic_metadata.unwrap().fields.contains_key("key_id"));
        }
    }

    #[tokio::test]
    async fn only_what_goes_to_our_own_api_has_a_proof_of_the_check() {
        let fixture = Fixture::new().await;
        for (path, has_proof) in [(PATH, false), (NOT_OUR_PATH, false), (OUR_PATH, true)] {
            let response = ask(&fixture, &check_of(path, &fixture.key).encode_to_vec()).await;
            let Some(HttpResponse::OkResponse(allowed)) = response.http_response else { panic!("{path} not allowed") };
            let mut set = allowed.headers.iter().filter_map(|option| option.header.as_ref());
            assert_eq!(set.any(|header| header.key == "x-tollgate-proof"), has_proof, "{path}");
        }
    }

    #[tokio::test]
    async fn a_check_of_which_headers_are_withheld_is_denied() {
        let fixture = Fixture::new().await;
        for withheld in [":method", ":path"] {
            let mut check = check_of(PATH, &fixture.key);
            let request = check.attributes.as_mut().and_then(|of| of.request.as_mut()?.http.as_mut()).unwrap();
            request.headers.remove(withheld).unwrap();
            assert_eq!(denied(ask(&fixture, &check.encode_to_vec()).await).0, 503, "{withheld}");
        }
    }

    /// Every check moves the whole of it, also where nothing has to be waited for.
    #[tokio::test]
    async fn a_check_takes_little_room() {
        let fixture = Fixture::new().await;
        let mut answer = Vec::new();
        let size = size_of_val(&fixture.service.check(b"", &mut answer));
        assert!(size < 2 << 10, "{size} bytes: box what is seldom waited for");
    }

    #[tokio::test]
    async fn an_unreadable_message_is_denied() {
        let fixture = Fixture::new().await;
        let (http, rpc, refusal) = denied(ask(&fixture, b"\x0a\xff junk").await);
        assert_eq!((http, rpc), (400, 3));
        assert!(refusal.body.contains("VALIDATION_ERROR"), "{}", refusal.body);
    }

    #[tokio::test]
    async fn an_empty_message_is_denied() {
        let fixture = Fixture::new().await;
        assert_eq!(denied(ask(&fixture, b"").await).0, 403);
        assert_eq!(denied(ask(&fixture, &CheckRequest::default().encode_to_vec()).await).0, 403);
    }

    #[tokio::test]
    async fn a_panic_denies_one_request_and_no_other() {
        let fixture = Fixture::new().await;
        let broken = check_of(BROKEN_PATH, &fixture.key).encode_to_vec();
        let (http, rpc, refusal) = denied(ask(&fixture, &broken).await);
        assert_eq!((http, rpc), (500, 13));
        assert!(refusal.body.contains("INTERNAL_ERROR"), "{}", refusal.body);
        let response = ask(&fixture, &check_of(PATH, &fixture.key).encode_to_vec()).await;
        assert_eq!(response.status.unwrap().code, 0);
        let metrics = fixture.telemetry.render(&fixture.resolver).unwrap();
        assert!(metrics.contains(r#"decision="deny",reason="internal""#), "{metrics}");
    }
}
