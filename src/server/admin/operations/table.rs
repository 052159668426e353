//! The rows of the table: one a method and path, with who may do it and what it takes and gives.

use axum::routing::{delete, get, patch, post, put};
use serde_json::Value;

use super::{Access, IfMatchRule, Operation};
use crate::server::admin::wire::audit::{AuditPage, ListAudit, TrimAudit, TrimmedBody};
use crate::server::admin::wire::fleet::{Changed, FleetBody};
use crate::server::admin::wire::issuers::{ForgottenBody, IssuerPath};
use crate::server::admin::wire::keys::{
    CreateKey, KeyBody, KeyPage, KeyPath, ListKeys, NewKeyBody, RotateKey, UpdateKey,
};
use crate::server::admin::wire::projects::{
    CreateProject, ListProjects, ProjectBody, ProjectPage, ProjectPath, UpdateProject,
};
use crate::server::admin::wire::resources::{ListResources, PutResource, ResourceBody, ResourcePage, ResourcePath};
use crate::server::admin::wire::session::{
    EndedBody, IssuedBody, LoginRequest, LogoutBody, OwnSessionPath, SessionPath, SessionsBody, WhoamiBody,
};
use crate::server::admin::wire::users::{
    CreateUser, FreedBody, ListUsers, SetPassword, UpdateUser, UserBody, UserPage, UserPath,
};
use crate::server::admin::wire::{
    AUDIT, BACKUP, BOOTSTRAP, DESCRIPTION, FLEET, JWKS, KEYS, LOGIN, LOGOUT, PROJECTS, RESOURCES, SESSIONS, USERS,
    WHOAMI,
};
use crate::server::admin::{
    Door, audit, backup, fleet, issuers, keys, openapi, projects, resources, session, sessions, users, whoami,
};

const PRIVATE: &[Door] = &[Door::Socket, Door::Http];
const EVERYWHERE: &[Door] = &[Door::Socket, Door::Http, Door::ThroughEnvoy];

const MANAGE_KEYS: Access = Access::Permission("manage_keys");
const MANAGE_RESOURCES: Access = Access::Permission("manage_resources");
const MANAGE_USERS: Access = Access::Permission("manage_users");
const VIEW_AUDIT_LOGS: Access = Access::Permission("view_audit_logs");

const ONE_KEY: &str = "/api/v1/auth/api-keys/{id}";
const ROTATE_KEY: &str = "/api/v1/auth/api-keys/{id}/rotate";
const ONE_USER: &str = "/api/v1/users/{name}";
const PASSWORD: &str = "/api/v1/users/{name}/password";
const FREE_NAME: &str = "/api/v1/users/{name}/free";
const OWN_SESSION: &str = "/api/v1/auth/sessions/{id}";
const USER_SESSIONS: &str = "/api/v1/users/{name}/sessions";
const USER_SESSION: &str = "/api/v1/users/{name}/sessions/{id}";
const ONE_PROJECT: &str = "/api/v1/projects/{name}";
const VERDICTS: &str = "/api/v1/issuers/{name}/verdicts";
const ONE_RESOURCE: &str = "/api/v1/resources/{kind}/{id}";

/// Everything that the API does.
pub static OPERATIONS: [Operation; 37] = [
    Operation::new::<Value>("api.describe", "GET", DESCRIPTION, || get(openapi::serve), 200)
        .by(Access::Public, PRIVATE)
        .says("This description", "OpenAPI 3.1. Anybody may read it."),
    Operation::new::<WhoamiBody>("session.whoami", "GET", WHOAMI, || get(whoami::show), 200)
        .by(Access::Anyone, EVERYWHERE)
        .says("Who you are", "Whom the credential belongs to, and how far it reaches."),
    Operation::new::<IssuedBody<'static>>("session.login", "POST", LOGIN, || post(session::login), 200)
        .by(Access::Public, EVERYWHERE)
        .says(
            "Log in",
            "A token for whoever knows the password of a user. Attempts that fail are counted, for each user and from each \
             address.",
        )
        .takes::<LoginRequest>()
        .throttled(),
    Operation::new::<Changed<LogoutBody>>("session.logout", "POST", LOGOUT, || post(session::logout), 200)
        .by(Access::Anyone, EVERYWHERE)
        .says("Log out", "Ends the session of the token that the request carries, at once. Keys are revoked instead.")
        .waits(),
    Operation::new::<SessionsBody>("session.list_own", "GET", SESSIONS, || get(sessions::list_own), 200)
        .by(Access::Anyone, EVERYWHERE)
        .says("List your sessions", "Those that go on, the newest first. Sessions that began before the store had its format are not listed."),
    Operation::new::<Changed<EndedBody>>("session.end_own", "DELETE", OWN_SESSION, || delete(sessions::end_own), 200)
        .by(Access::Anyone, EVERYWHERE)
        .says("End one of your sessions", "At once: no check that begins after the answer is allowed with its token.")
        .on::<OwnSessionPath>("session:{id}")
        .waits(),
    Operation::new::<Value>("session.keys", "GET", JWKS, || get(session::jwks), 200)
        .by(Access::Public, EVERYWHERE)
        .says("The keys of our tokens", "A JWK Set, for whoever verifies tokens by themselves. Anybody may read it."),
    Operation::new::<KeyPage>("key.list", "GET", KEYS, || get(keys::list), 200)
        .by(MANAGE_KEYS, EVERYWHERE)
        .says("List keys", "The keys within your reach by id, revoked and expired ones too, without their secrets.")
        .filters::<ListKeys>(),
    Operation::new::<NewKeyBody<'static>>("key.create", "POST", KEYS, || post(keys::create), 201)
        .by(MANAGE_KEYS, EVERYWHERE)
        .says(
            "Make a key",
            "The answer shows the key, this once. You can grant only permissions that you hold, in projects that you \
             reach. Repeated with the same `Idempotency-Key`, it is a conflict that names the key made before, whose \
             secret is not shown again.",
        )
        .takes::<CreateKey>()
        .repeatable()
        .versioned(),
    Operation::new::<KeyBody>("key.show", "GET", ONE_KEY, || get(keys::show), 200)
        .by(MANAGE_KEYS, EVERYWHERE)
        .says("Show a key's record", "")
        .on::<KeyPath>("key:{id}")
        .versioned(),
    Operation::new::<Changed<KeyBody>>("key.update", "PATCH", ONE_KEY, || patch(keys::update), 200)
        .by(MANAGE_KEYS, EVERYWHERE)
        .says(
            "Change a key",
            "Only what is there changes. You must hold every permission that the key had and every one that it gets.",
        )
        .on::<KeyPath>("key:{id}")
        .takes::<UpdateKey>()
        .if_match(IfMatchRule::Required)
        .waits(),
    Operation::new::<Changed<KeyBody>>("key.revoke", "DELETE", ONE_KEY, || delete(keys::revoke), 200)
        .by(MANAGE_KEYS, EVERYWHERE)
        .says(
            "Revoke a key",
            "At once and for good: no check that begins after the answer is allowed with it. The record stays. Revoking \
             it again is no error.",
        )
        .on::<KeyPath>("key:{id}")
        .if_match(IfMatchRule::Optional)
        .waits(),
    Operation::new::<Changed<NewKeyBody<'static>>>("key.rotate", "POST", ROTATE_KEY, || post(keys::rotate), 201)
        .by(MANAGE_KEYS, EVERYWHERE)
        .says(
            "Replace a key",
            "Makes a key with the same rights and shows it, this once. The old one goes on for the grace, if there is \
             one. You must hold every permission of the key.",
        )
        .on::<KeyPath>("key:{id}")
        .may_take::<RotateKey>()
        .if_match(IfMatchRule::Optional)
        .waits(),
    Operation::new::<NewKeyBody<'static>>("key.bootstrap", "POST", BOOTSTRAP, || post(keys::bootstrap), 201)
        .says("Make the first administrative key", "Only through the admin socket, and only while no active one exists.")
        .versioned(),
    Operation::new::<Vec<u8>>("store.backup", "POST", BACKUP, || post(backup::make), 200)
        .says(
            "Copy the store",
            "Everything in an embedded store, of one moment, as `tollgate restore` takes it. Only through the admin socket, one at a \
             time. An answer that ends without its last chunk is no copy.",
        )
        .streams(),
    Operation::new::<UserPage>("user.list", "GET", USERS, || get(users::list), 200)
        .by(MANAGE_USERS, PRIVATE)
        .says("List users", "The users within your reach, by name.")
        .filters::<ListUsers>(),
    Operation::new::<UserBody>("user.create", "POST", USERS, || post(users::create), 201)
        .by(MANAGE_USERS, PRIVATE)
        .says(
            "Make a user",
            "Somebody who logs in with a password. You can grant only permissions that you hold, in projects that you \
             reach. It is a conflict if the name is taken, or if no login is configured.",
        )
        .takes::<CreateUser>()
        .repeatable()
        .versioned(),
    Operation::new::<UserBody>("user.show", "GET", ONE_USER, || get(users::show), 200)
        .by(MANAGE_USERS, PRIVATE)
        .says("Show a user", "")
        .on::<UserPath>("user:{name}")
        .versioned(),
    Operation::new::<Changed<UserBody>>("user.update", "PATCH", ONE_USER, || patch(users::update), 200)
        .by(MANAGE_USERS, PRIVATE)
        .says(
            "Change, disable or enable a user",
            "Only what is there changes. You must hold every permission that the user had and every one that they get; \
             only to disable one, the reach is enough. Disabling ends every session at once.",
        )
        .on::<UserPath>("user:{name}")
        .takes::<UpdateUser>()
        .if_match(IfMatchRule::Required)
        .waits(),
    Operation::new::<Changed<UserBody>>("user.delete", "DELETE", ONE_USER, || delete(users::delete), 200)
        .by(MANAGE_USERS, PRIVATE)
        .says("Delete a user", "Ends every session at once. The name is kept from reuse until it is given free.")
        .on::<UserPath>("user:{name}")
        .if_match(IfMatchRule::Optional)
        .waits(),
    Operation::new::<FreedBody>("user.free", "POST", FREE_NAME, || post(users::free), 200)
        .by(MANAGE_USERS, PRIVATE)
        .says(
            "Give the name of a deleted user free",
            "Another user can be made under it afterwards. Says which keys, users and projects were made by it, which resources \
             it owns and how many rows of the audit log are by it: they would name whoever has it next. Only an administrator of every project may. Doing it again is no error.",
        )
        .on::<UserPath>("user:{name}"),
    Operation::new::<Changed<UserBody>>("user.password", "PUT", PASSWORD, || put(users::set_password), 200)
        .by(MANAGE_USERS, PRIVATE)
        .says("Set a user's password", "Ends every session at once. You must hold every permission of the user.")
        .on::<UserPath>("user:{name}")
        .takes::<SetPassword>()
        .if_match(IfMatchRule::Optional)
        .waits(),
    Operation::new::<SessionsBody>("session.list", "GET", USER_SESSIONS, || get(sessions::list), 200)
        .by(MANAGE_USERS, PRIVATE)
        .says(
            "List the sessions of a user",
            "Those that go on, the newest first. One user has at most 256: the oldest is ended when another one begins.",
        )
        .on::<UserPath>("user:{name}"),
    Operation::new::<Changed<EndedBody>>("session.end", "DELETE", USER_SESSION, || delete(sessions::end), 200)
        .by(MANAGE_USERS, PRIVATE)
        .says(
            "End a session of a user",
            "At once: no check that begins after the answer is allowed with its token. Their other sessions go on. Ending it \
             again is no error.",
        )
        .on::<SessionPath>("session:{id}")
        .waits(),
    Operation::new::<ProjectPage>("project.list", "GET", PROJECTS, || get(projects::list), 200)
        .by(MANAGE_KEYS, PRIVATE)
        .says(
            "List projects",
            "The projects within your reach, by name. A project is made by itself, or comes with the first thing in it.",
        )
        .filters::<ListProjects>(),
    Operation::new::<ProjectBody>("project.create", "POST", PROJECTS, || post(projects::create), 201)
        .by(MANAGE_KEYS, PRIVATE)
        .says(
            "Make a project",
            "Before anything is made in it. It is a conflict if it is there already, or was deleted. Only an administrator of every \
             project may.",
        )
        .takes::<CreateProject>()
        .repeatable()
        .versioned(),
    Operation::new::<ProjectBody>("project.show", "GET", ONE_PROJECT, || get(projects::show), 200)
        .by(MANAGE_KEYS, PRIVATE)
        .says("Show a project", "One that was never made is active, and has version 0.")
        .on::<ProjectPath>("project:{name}")
        .versioned(),
    Operation::new::<Changed<ProjectBody>>("project.update", "PATCH", ONE_PROJECT, || patch(projects::update), 200)
        .by(MANAGE_KEYS, PRIVATE)
        .says(
            "Suspend a project, or let it go on",
            "Suspended, every key, session and token of it is refused at once, its administrators' too: then one of every \
             project lets it go on, and all of them work again. Suspending it again is no error.",
        )
        .on::<ProjectPath>("project:{name}")
        .takes::<UpdateProject>()
        .if_match(IfMatchRule::Required)
        .waits(),
    Operation::new::<Changed<ProjectBody>>("project.delete", "DELETE", ONE_PROJECT, || delete(projects::delete), 200)
        .by(MANAGE_KEYS, PRIVATE)
        .says(
            "Delete a project",
            "At once and for good: every key, session and token of it is refused, and none is made in it any more. The name \
             is not free afterwards. Only an administrator of every project may. Deleting it again is no error.",
        )
        .on::<ProjectPath>("project:{name}")
        .if_match(IfMatchRule::Optional)
        .waits(),
    Operation::new::<Changed<ForgottenBody>>("issuer.forget", "DELETE", VERDICTS, || delete(issuers::forget), 200)
        .by(MANAGE_KEYS, PRIVATE)
        .says(
            "Have the tokens of an issuer verified anew",
            "What was found out about them is forgotten, here and in the whole fleet. Only an administrator of every project \
             may.",
        )
        .on::<IssuerPath>("issuer:{name}")
        .waits(),
    Operation::new::<FleetBody>("fleet.show", "GET", FLEET, || get(fleet::show), 200)
        .by(MANAGE_KEYS, PRIVATE)
        .says(
            "Show the fleet",
            "Everybody who answers checks from this store, and how soon a change counts everywhere. Whoever revokes keys \
             must be able to see how far that goes; only an administrator of every project may.",
        ),
    Operation::new::<AuditPage>("audit.list", "GET", AUDIT, || get(audit::list), 200)
        .by(VIEW_AUDIT_LOGS, PRIVATE)
        .says(
            "Read the audit log",
            "Every administrative change, and what this API refused to somebody who is known, up to 120 times a minute for \
             each and 600 for each project: who, what, when and from where, newest first. An administrator of one project sees the rows of that \
             project.",
        )
        .filters::<ListAudit>(),
    Operation::new::<TrimmedBody>("audit.trim", "DELETE", AUDIT, || delete(audit::trim), 200)
        .says(
            "Remove old rows of the audit log",
            "From the oldest on, as many as fit into one call. The newest row always stays, so that the numbers go on. For the \
             operator alone.",
        )
        .filters::<TrimAudit>(),
    Operation::new::<ResourcePage>("resource.list", "GET", RESOURCES, || get(resources::list), 200)
        .by(MANAGE_RESOURCES, PRIVATE)
        .says("List resources", "The registered resources within your reach, by kind and id.")
        .filters::<ListResources>(),
    Operation::new::<ResourceBody>("resource.show", "GET", ONE_RESOURCE, || get(resources::show), 200)
        .by(MANAGE_RESOURCES, PRIVATE)
        .says("Show a resource", "")
        .on::<ResourcePath>("{kind}:{id}")
        .versioned(),
    Operation::new::<Changed<ResourceBody>>("resource.put", "PUT", ONE_RESOURCE, || put(resources::put), 200)
        .by(MANAGE_RESOURCES, PRIVATE)
        .says(
            "Register a resource",
            "Says which project an id belongs to. Registering it again in the same place changes nothing; elsewhere it is \
             a conflict, unless `move` says that it may be moved. Only an administrator of every project may.",
        )
        .on::<ResourcePath>("{kind}:{id}")
        .takes::<PutResource>()
        .if_match(IfMatchRule::Optional)
        .waits(),
    Operation::new::<Changed<ResourceBody>>("resource.delete", "DELETE", ONE_RESOURCE, || delete(resources::delete), 200)
        .by(MANAGE_RESOURCES, PRIVATE)
        .says(
            "Take a resource out of the registry",
            "Nobody reaches it by its id any more. Only an administrator of every project may.",
        )
        .on::<ResourcePath>("{kind}:{id}")
        .if_match(IfMatchRule::Optional)
        .waits(),
];
