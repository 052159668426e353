//! The one table of what the admin API does. The router, the rules of the guard and the description of the API are all made
//! from it, so that they cannot disagree.

use axum::routing::{MethodRouter, delete, get, post, put};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::wire::keys::{CreateKey, KeyBody, KeyPage, KeyPath, ListKeys, NewKeyBody, RotateKey};
use super::wire::resources::{ListResources, PutResource, ResourceBody, ResourcePage, ResourcePath};
use super::wire::{BOOTSTRAP, DESCRIPTION, KEYS, RESOURCES};
use super::{AdminState, Door, keys, openapi, resources};

/// Who may do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody, without a credential.
    Public,
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
    /// The status of a success and what it carries.
    pub answer: (u16, Describe),
}

/// Writes the schema of a type.
pub type Describe = fn(&mut SchemaGenerator) -> Schema;

#[derive(Clone, Copy, Debug)]
pub struct RequestBody {
    pub describe: Describe,
    pub required: bool,
}

const PRIVATE: &[Door] = &[Door::Socket, Door::Http];
const EVERYWHERE: &[Door] = &[Door::Socket, Door::Http, Door::ThroughEnvoy];

const ONE_KEY: &str = "/api/v1/auth/api-keys/{id}";
const ROTATE_KEY: &str = "/api/v1/auth/api-keys/{id}/rotate";
const ONE_RESOURCE: &str = "/api/v1/resources/{kind}/{id}";

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
            answer: (status, SchemaGenerator::subschema_for::<Answer>),
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

const MANAGE_KEYS: Access = Access::Permission("manage_keys");
const MANAGE_RESOURCES: Access = Access::Permission("manage_resources");

/// Everything that the API does.
pub static OPERATIONS: [Operation; 11] = [
    Operation::new::<serde_json::Value>("api.describe", "GET", DESCRIPTION, || get(openapi::serve), 200)
        .by(Access::Public, PRIVATE)
        .says("This description", "OpenAPI 3.1. Anybody may read it."),
    Operation::new::<KeyPage>("key.list", "GET", KEYS, || get(keys::list), 200)
        .by(MANAGE_KEYS, EVERYWHERE)
        .says("List keys", "The keys within your reach by id, revoked and expired ones too, without their secrets.")
        .filters::<ListKeys>(),
    Operation::new::<NewKeyBody<'static>>("key.create", "POST", KEYS, || post(keys::create), 201)
        .by(MANAGE_KEYS, EVERYWHERE)
        .says("Make a key", "The answer shows the key, this once. You can grant only permissions that you hold, in projects that you \
             reach.",
        )
        .takes::<CreateKey>(),
    Operation::new::<KeyBody>("key.show", "GET", ONE_KEY, || get(keys::show), 200)
        .by(MANAGE_KEYS, EVERYWHERE)
        .says("Show a key's record", "")
        .on::<KeyPath>("key:{id}"),
    Operation::new::<KeyBody>("key.revoke", "DELETE", ONE_KEY, || delete(keys::revoke), 200)
        .by(MANAGE_KEYS, EVERYWHERE)
        .says("Revoke a key", "At once and for good: no check that begins after the answer is allowed with it. The record stays. Revoking \
             it again is no error.",
        )
        .on::<KeyPath>("key:{id}"),
    Operation::new::<NewKeyBody<'static>>("key.rotate", "POST", ROTATE_KEY, || post(keys::rotate), 201)
        .by(MANAGE_KEYS, EVERYWHERE)
        .says("Replace a key", "Makes a key with the same rights and shows it, this once. The old one goes on for the grace, if there is \
             one.",
        )
        .on::<KeyPath>("key:{id}")
        .may_take::<RotateKey>(),
    Operation::new::<NewKeyBody<'static>>("key.bootstrap", "POST", BOOTSTRAP, || post(keys::bootstrap), 201)
        .says("Make the first administrative key", "Only through the admin socket, and only while no active one exists."),
    Operation::new::<ResourcePage>("resource.list", "GET", RESOURCES, || get(resources::list), 200)
        .by(MANAGE_RESOURCES, PRIVATE)
        .says("List resources", "The registered resources within your reach, by kind and id.")
        .filters::<ListResources>(),
    Operation::new::<ResourceBody>("resource.show", "GET", ONE_RESOURCE, || get(resources::show), 200)
        .by(MANAGE_RESOURCES, PRIVATE)
        .says("Show a resource", "")
        .on::<ResourcePath>("{kind}:{id}"),
    Operation::new::<ResourceBody>("resource.put", "PUT", ONE_RESOURCE, || put(resources::put), 200)
        .by(MANAGE_RESOURCES, PRIVATE)
        .says("Register a resource", "Says which project an id belongs to. Registering it again in the same place changes nothing; elsewhere it is \
             a conflict, unless `move` says that it may be moved. Only an administrator of every project may.",
        )
        .on::<ResourcePath>("{kind}:{id}")
        .takes::<PutResource>(),
    Operation::new::<ResourceBody>("resource.delete", "DELETE", ONE_RESOURCE, || delete(resources::delete), 200)
        .by(MANAGE_RESOURCES, PRIVATE)
        .says("Take a resource out of the registry", "Nobody reaches it by its id any more. Only an administrator of every project may.")
        .on::<ResourcePath>("{kind}:{id}"),
];
