//! The one table of what the admin API does. The router, the rules of the guard and the description of the API are all made
//! from it, so that they cannot disagree.

mod table;

use axum::routing::MethodRouter;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::wire::fleet::Waiting;
use super::{AdminState, Door};

pub use table::OPERATIONS;

/// Who may do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody, without a credential.
    Public,
    /// Whoever has a credential of an admin plane.
    Anyone,
    /// Whoever holds this permission on an admin plane.
    Permission(&'static str),
    /// Whoever holds the admin socket.
    Operator,
}

/// One thing that the API does: a method on a path.
#[derive(Debug)]
pub struct Operation {
    /// Its name in logs, in audit rows and in the description: `key.create`.
    pub name: &'static str,
    pub method: &'static str,
    pub path: &'static str,
    pub handler: fn() -> MethodRouter<AdminState>,
    pub access: Access,
    pub doors: &'static [Door],
    /// What it acts upon, with the names of the path filled in: `key:{id}`.
    pub target: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    pub path_names: Option<Describe>,
    pub query: Option<Describe>,
    pub body: Option<RequestBody>,
    pub if_match: IfMatchRule,
    /// Whether it is refused to whoever tries too often.
    pub throttled: bool,
    /// Whether a success can wait until every replica has confirmed it; then it is 202 where one may lag.
    pub waits: bool,
    /// Whether a client may name it by an `Idempotency-Key`.
    pub repeatable: bool,
    /// The status of a success and what it carries.
    pub answer: (u16, Describe),
    /// Whether a success carries bytes, and not JSON.
    pub streams: bool,
    /// Whether a success carries one record, with its version as the `ETag`.
    pub versioned: bool,
}

/// Whether a change is conditional on the version that the client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMatchRule {
    None,
    Optional,
    Required,
}

/// Writes the schema of a type.
pub type Describe = fn(&mut SchemaGenerator) -> Schema;

#[derive(Clone, Copy, Debug)]
pub struct RequestBody {
    pub describe: Describe,
    pub required: bool,
}

impl Operation {
    const fn new<Answer: JsonSchema>(
        name: &'static str,
        method: &'static str,
        path: &'static str,
        handler: fn() -> MethodRouter<AdminState>,
        status: u16,
    ) -> Self {
        Self {
            name,
            method,
            path,
            handler,
            access: Access::Operator,
            doors: &[Door::Socket],
            target: "",
            summary: "",
            description: "",
            path_names: None,
            query: None,
            body: None,
            if_match: IfMatchRule::None,
            throttled: false,
            repeatable: false,
            waits: false,
            answer: (status, SchemaGenerator::subschema_for::<Answer>),
            streams: false,
            versioned: false,
        }
    }

    const fn by(mut self, access: Access, doors: &'static [Door]) -> Self {
        self.access = access;
        self.doors = doors;
        self
    }

    const fn says(mut self, summary: &'static str, description: &'static str) -> Self {
        self.summary = summary;
        self.description = description;
        self
    }

    /// What it acts upon, named by its path.
    const fn on<Names: JsonSchema>(mut self, target: &'static str) -> Self {
        self.target = target;
        self.path_names = Some(Names::json_schema);
        self
    }

    const fn filters<Query: JsonSchema>(mut self) -> Self {
        self.query = Some(Query::json_schema);
        self
    }

    const fn takes<Body: JsonSchema>(mut self) -> Self {
        self.body = Some(RequestBody { describe: SchemaGenerator::subschema_for::<Body>, required: true });
        self
    }

    const fn may_take<Body: JsonSchema>(mut self) -> Self {
        self.body = Some(RequestBody { describe: SchemaGenerator::subschema_for::<Body>, required: false });
        self
    }

    /// It answers with one record.
    const fn versioned(mut self) -> Self {
        self.versioned = true;
        self
    }

    /// It changes one record, and answers with it.
    const fn if_match(mut self, rule: IfMatchRule) -> Self {
        self.if_match = rule;
        self.versioned()
    }

    const fn streams(mut self) -> Self {
        self.streams = true;
        self
    }

    const fn throttled(mut self) -> Self {
        self.throttled = true;
        self
    }

    /// Its answer can wait for the fleet.
    const fn waits(mut self) -> Self {
        self.waits = true;
        self.filters::<Waiting>()
    }

    const fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Whether it makes or changes something, and so may be told to come back later.
    pub fn makes(&self) -> bool {
        matches!(self.access, Access::Permission(_)) && matches!(self.method, "POST" | "PUT" | "PATCH")
    }

    /// The methods that a router answers with the handler.
    pub fn methods(&self) -> &'static [&'static str] {
        match self.method {
            "GET" => &["GET", "HEAD"],
            "POST" => &["POST"],
            "PUT" => &["PUT"],
            "PATCH" => &["PATCH"],
            "DELETE" => &["DELETE"],
            _ => &[],
        }
    }
}
