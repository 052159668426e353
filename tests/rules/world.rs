//! A policy of every kind of route, callers for it, and the rules from request to answer without a store.

use std::sync::{Arc, LazyLock};

use tollgate::clock::Clock;
use tollgate::config;
use tollgate::domain::record::ApiKey;
use tollgate_core::attributes::{Attributes, Header};
use tollgate_core::case::{Case, Need, Next, Opened};
use tollgate_core::credential::MintedKey;
use tollgate_core::decision::Tier;
use tollgate_core::denial::Denial;
use tollgate_core::policy::Policy;
use tollgate_core::principal::Principal;
use tollgate_core::resource::Resource;
use tollgate_core::respond::Decision;
use tollgate_guard::digest::Digest;
use tollgate_guard::found::Found;
use tollgate_guard::slots::Slots;
use tollgate_guard::stamps::{Proof, Stamps};
use tollgate_guard::time::Timestamp;

pub const GOOD: &str = include_str!("tollgate.yaml");
pub const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

/// What stands before `hosts` in every file of these tests.
pub const HEAD: &str = "
version: 1
store: {embedded: {path: s}}
pepper: {current: 1, keys: {1: {file: p}}}
listen: {check: {unix: {path: c}}, admin: {unix: {path: a}}, ops: {http: 127.0.0.1:0}}
permissions: [run, read, write, tune]
";

pub const HOSTS: &str = "
hosts:
  - match: [api.test]
    routes:
      - {name: public, match: [GET /open], public: true}
      - {name: data, match: [POST /data], plane: data, all_of: [run], in: {project: key}}
      - {name: tokens, match: [POST /tokens], plane: data, all_of: [run], in: {project: key}, credentials: [jwt]}
      - {name: control, match: [POST /control], plane: control, all_of: [write], in: {project: key}}
      - {name: admin, match: [POST /admin], plane: admin, all_of: [manage_keys], in: {project: key}, credential: keep}
      - {name: browser, match: [POST /browser], plane: data, all_of: [run], in: {project: key}, origin: allow}
      - {name: both, match: [POST /both], plane: data, all_of: [run, read], any_of: [write, tune], in: {project: key}}
      - {name: any, match: [POST /any], plane: data, any_of: [write, tune], in: {project: key}}
      - {name: own, match: [POST /own], plane: data, all_of: [run], in: {project: key, workload: key}}
      - {name: whole, match: [\"POST /p/{project}\"], plane: data, all_of: [run], in: {project: \"{project}\"}}
      - {name: one, match: [\"POST /p/{project}/w/{workload}\"], plane: data, all_of: [run],
         in: {project: \"{project}\", workload: \"{workload}\"}}
      - {name: fixed, match: [POST /fixed], plane: data, all_of: [run], in: {project: acme, workload: chat}}
      - {name: resource, match: [\"PATCH /r/{id}\"], plane: control, all_of: [write], in: {resource: \"workload:{id}\"}}
      - {name: tenant, match: [\"POST /t/{project}\"], plane: admin, all_of: [manage_keys], in: {project: \"{project}\"}}
      - {name: thing, match: [\"PATCH /t/{id}\"], plane: admin, all_of: [manage_keys], in: {resource: \"workload:{id}\"}}
      - {name: openai, match: [POST /openai], plane: data, all_of: [run], in: {project: key}, errors: openai}
      - {name: anthropic, match: [POST /anthropic], plane: data, all_of: [run], in: {project: key}, errors: anthropic}
      - {name: grpc, match: [POST /grpc], plane: data, all_of: [run], in: {project: key}, errors: grpc}
  - match: [\"*.tenants.test\"]
    errors: openai
    routes:
      - {name: host, match: [POST /data], plane: data, all_of: [run], in: {project: \"{host.1}\"}}
";

pub fn policy() -> &'static Arc<Policy> {
    static POLICY: LazyLock<Arc<Policy>> = LazyLock::new(|| Arc::new(compiled(&format!("{HEAD}{HOSTS}"))));
    &POLICY
}

pub fn compiled(text: &str) -> Policy {
    config::parse(text).unwrap_or_else(|problems| panic!("{problems}")).policy
}

/// A key of this prefix; the same seed makes the same key.
pub fn mint(prefix: &str, seed: u8) -> MintedKey {
    let mut next = seed;
    MintedKey::generate(prefix, |buffer: &mut [u8]| {
        for byte in buffer {
            next = next.wrapping_mul(181).wrapping_add(59);
            *byte = next;
        }
        Ok::<_, std::convert::Infallible>(())
    })
    .unwrap()
}

/// A key of `acme` for all of its workloads.
pub fn holder(plane: &str, permissions: &[&str]) -> ApiKey {
    ApiKey {
        id: mint("x", 1).id(),
        digest: Digest([0; 32]),
        pepper_version: 1,
        name: "test".to_owned(),
        plane: plane.to_owned(),
        project: "acme".to_owned(),
        project_id: None,
        workloads: vec!["*".to_owned()],
        permissions: permissions.iter().map(|&permission| permission.to_owned()).collect(),
        created_at: NOW,
        created_by: "operator".to_owned(),
        expires_at: None,
        retires_at: None,
        revoked_at: None,
        replaces: None,
        replaced_by: None,
        version: 1,
    }
}

pub fn workloads(key: ApiKey, names: &[&str]) -> ApiKey {
    ApiKey { workloads: names.iter().map(|&name| name.to_owned()).collect(), ..key }
}

pub fn resource(id: &str, slug: &str, project: &str) -> Resource {
    Resource {
        kind: "workload".to_owned(),
        id: id.to_owned(),
        slug: slug.to_owned(),
        project: project.to_owned(),
        project_id: None,
        owner: None,
        created_at: NOW,
        version: 1,
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub target: String,
    pub host: &'static str,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Request {
    pub fn new(method: &'static str, target: &str) -> Self {
        Self { method, target: target.to_owned(), host: "api.test", headers: Vec::new() }
    }

    pub fn on(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// With a key of this prefix.
    pub fn bearing(self, prefix: &str) -> Self {
        let key = mint(prefix, 1);
        self.with("authorization", format!("Bearer {}", key.expose()))
    }

    pub fn attributes(&self) -> Attributes<'_> {
        Attributes {
            method: self.method,
            target: &self.target,
            host: self.host,
            headers: self.headers.iter().map(|(name, value)| Header::new(name, value)).collect(),
            peer_address: "192.0.2.7",
            ..Attributes::default()
        }
    }
}

/// An answer that outlives its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Allow { set: Vec<(String, String)>, remove: Vec<String>, metadata: Vec<(String, String)> },
    Deny { denial: Denial, status: u16, headers: Vec<(String, String)>, body: String },
}

impl Answer {
    pub fn denial(&self) -> Option<Denial> {
        match self {
            Self::Allow { .. } => None,
            Self::Deny { denial, .. } => Some(*denial),
        }
    }

    pub fn status(&self) -> u16 {
        match self {
            Self::Allow { .. } => 200,
            Self::Deny { status, .. } => *status,
        }
    }

    /// The value that the back end is given.
    pub fn told(&self, name: &str) -> Option<&str> {
        let Self::Allow { set, .. } = self else { return None };
        set.iter().find(|(set, _)| set == name).map(|(_, value)| &**value)
    }

    pub fn removes(&self, name: &str) -> bool {
        matches!(self, Self::Allow { remove, .. } if remove.iter().any(|removed| removed == name))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let Self::Deny { headers, .. } = self else { return None };
        headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    pub fn body(&self) -> &str {
        match self {
            Self::Allow { .. } => "",
            Self::Deny { body, .. } => body,
        }
    }

    /// All that the client of a refusal sees.
    pub fn bytes(&self) -> String {
        match self {
            Self::Allow { .. } => String::new(),
            Self::Deny { status, headers, body, .. } => format!("{status} {headers:?} {body}"),
        }
    }
}

pub fn owned(decision: &Decision<'_>) -> Answer {
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    match decision {
        Decision::Allow(allow) => Answer::Allow {
            set: allow.headers_to_set().map(pair).collect(),
            remove: allow.headers_to_remove().map(str::to_owned).collect(),
            metadata: allow.metadata().map(pair).collect(),
        },
        Decision::Deny(deny) => Answer::Deny {
            denial: deny.denial,
            status: deny.status,
            headers: deny.headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect(),
            body: deny.body.clone(),
        },
    }
}

/// As if it had just been looked up, and nothing changed since.
pub fn found<T>(stamps: &Stamps, value: T) -> Found<T> {
    let slots = Slots::of_digests(&[Digest([7; 32])]);
    Found::new(value, Proof { stamp: stamps.take(), slots, sent: stamps.now() })
}

pub fn principal(holder: &ApiKey) -> Result<Arc<Principal>, Denial> {
    let grant = holder.grant().map_err(|_| Denial::Internal)?;
    Ok(Arc::new(holder.principal(Arc::new(grant))))
}

/// The page, with what the store would say as arguments.
pub fn decide(
    policy: &Policy,
    request: &Request,
    holder: Option<&ApiKey>,
    resource: Option<&Resource>,
    now: Timestamp,
) -> Answer {
    let (attributes, stamps) = (request.attributes(), Stamps::sole(Clock::System));
    let mut case = match Case::open(policy, &attributes) {
        Opened::Decided(decision) => return owned(&decision),
        Opened::Case(case) => case,
    };
    let mut next = Next::Need(case.need());
    loop {
        next = match next {
            Next::Need(Need::Key(_) | Need::Token(_)) => match holder.map(principal).transpose() {
                Ok(known) => case.principal(known.map(|known| found(&stamps, known)), Tier::Store, now),
                Err(denial) => case.failed(denial),
            },
            Next::Need(Need::Resource(reference)) => {
                let known = resource.filter(|resource| reference == resource.reference());
                case.resource(known.map(|known| found(&stamps, Arc::new(known.clone()))), Tier::Store, now)
            }
            Next::Confirm => case.confirm(&stamps),
            Next::Decided(decision) => return owned(&decision),
        };
    }
}
