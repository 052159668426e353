//! The description of the API, as OpenAPI 3.1, made from the table of operations. Never names an operation that the HTTP door does
//! not have.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::Door;
use super::operations::{Access, IfMatchRule, OPERATIONS, Operation};
use super::reply::{self, ErrorBody};

const ABOUT: &str = "\
Keys, users, projects and resources of a Tollgate, and the log of every change.

**Who may call it.** Every operation but this description needs a credential of an admin plane: an API key as \
`Authorization: Bearer KEY` or `X-API-Key: KEY`, or the token of a login as `Authorization: Bearer TOKEN`. Send exactly one. \
Each operation says which permission it needs. An administrator of one project reaches that project alone: what lies outside \
is `NOT_FOUND`. Nobody can grant what they do not hold.

**Errors** are `{\"error\": {\"code\", \"message\", \"details\"}}`; `details` is null where there is nothing to add. The message \
says what to do. Read the code, not the message, in a program.

**Lists** come in pages, in a fixed order. Where `next` is not null, ask again with `after` (for the audit log: `before`) set to it; a page of the audit log may be short, even empty, and still have a `next`.

**Lost updates.** A single record comes with its version as `ETag`. Send it back as `If-Match`, and a change is made only \
if nobody else has changed the record since: otherwise it is 412. `PATCH` needs it; `If-Match: *` says that you do not mind.

**Retries.** With an `Idempotency-Key` of your own, a creation that you repeat within 24 hours is made once. 503 has \
`Retry-After`.

**Fleets.** Where several Tollgates share a store, a change counts everywhere within the time that `GET /api/v1/fleet` tells as \
`level`. With `?wait=fleet` the answer to a change comes when nobody can act any more on what was before, or after `limit` \
(`5s`), and `fleet` in it says who has confirmed the change. The status is 202 if a replica lags, or if that could not be \
found out: the change is made all the same.

**Names.** Every answer carries `x-request-id`: yours, if you sent one, else a new one. It stands in the log too.";

/// The document, ready to be written to a file.
pub fn document() -> Value {
    // Requests and answers differ in what must be there: a field with a default may be left out of a request alone.
    let path = "/components/schemas";
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = path.into());
    let mut requests = settings.clone().for_deserialize().into_generator();
    let mut answers = settings.for_serialize().into_generator();
    let mut paths = Map::new();
    for operation in OPERATIONS.iter().filter(|operation| operation.doors.contains(&Door::Http)) {
        let described = describe(operation, &mut requests, &mut answers);
        let on_path = paths.entry(operation.path).or_insert_with(|| json!({}));
        on_path[operation.method.to_ascii_lowercase()] = described;
    }
    let error = answers.subschema_for::<ErrorBody>();
    let mut schemas = requests.take_definitions(true);
    schemas.extend(answers.take_definitions(true));
    schemas.sort_keys();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tollgate admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"api_key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or the token of a login."},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."}
            },
            "responses": errors(&error),
            "headers": headers(),
            "parameters": header_parameters(),
            "schemas": schemas
        }
    });
    unwrap_lines(&mut document);
    document
}

fn describe(operation: &Operation, requests: &mut SchemaGenerator, answers: &mut SchemaGenerator) -> Value {
    let mut description = operation.description.to_owned();
    if let Access::Permission(permission) = operation.access {
        description = format!("{description}\n\nNeeds the permission `{permission}`.").trim_start().to_owned();
    }
    let (status, answer) = operation.answer;
    let mut responses = Map::new();
    responses.insert(status.to_string(), success(operation, operation.summary, &answer(answers)));
    if operation.waits {
        responses.insert("202".to_owned(), success(operation, LAGGING, &answer(answers)));
    }
    for (status, name) in refusals(operation) {
        responses.insert(status.to_string(), json!({"$ref": format!("#/components/responses/{name}")}));
    }
    let mut described = json!({
        "operationId": operation.name,
        "tags": [operation.name.split('.').next()],
        "summary": operation.summary,
        "description": description,
        "parameters": parameters(operation, requests),
        "responses": responses
    });
    if let Some(body) = &operation.body {
        let schema = (body.describe)(requests);
        let content = json!({"application/json": {"schema": schema}});
        described["requestBody"] = json!({"required": body.required, "content": content});
    }
    if operation.access == Access::Public {
        described["security"] = json!([]);
    }
    described
}

fn parameters(operation: &Operation, requests: &mut SchemaGenerator) -> Vec<Value> {
    let mut parameters = Vec::new();
    for (place, describe) in [("path", operation.path_names), ("query", operation.query)] {
        let Some(describe) = describe else { continue };
        let fields = describe(requests).to_value();
        for (name, schema) in fields["properties"].as_object().into_iter().flatten() {
            let mut schema = schema.clone();
            let said = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            let mut parameter = json!({"name": name, "in": place, "required": place == "path", "schema": schema});
            if let Some(said) = said {
                parameter["description"] = said;
            }
            parameters.push(parameter);
        }
    }
    let headers = [
        (operation.if_match == IfMatchRule::Optional, "IfMatch"),
        (operation.if_match == IfMatchRule::Required, "RequiredIfMatch"),
        (operation.repeatable, "IdempotencyKey"),
    ];
    let said = headers.iter().filter(|(taken, _)| *taken);
    parameters.extend(said.map(|(_, name)| json!({"$ref": format!("#/components/parameters/{name}")})));
    parameters
}

fn header_parameters() -> Value {
    let if_match = |required: bool, description: &str| {
        let schema = json!({"type": "string", "pattern": "^([*]|\"[0-9]{1,18}\")$", "examples": ["*"]});
        json!({"name": "If-Match", "in": "header", "required": required, "description": description, "schema": schema})
    };
    json!({
        "IfMatch": if_match(false, "The `ETag` of the version that is meant; without it, any version."),
        "RequiredIfMatch": if_match(true, "The `ETag` of the version that is changed, or `*` for any version."),
        "IdempotencyKey": {
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": "Your own name for this creation: repeated under it within 24 hours, it is made once.",
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$", "examples": ["3f0c1d9a-6a39-4e6f-9a57-8d1f0a1b2c3d"]}
        }
    })
}

/// What 202 means.
const LAGGING: &str = "It is done, and the replicas that `fleet.lagging` names may still act on what was before; or \
                       `fleet.unknown` says why that could not be found out.";

fn success(operation: &Operation, description: &str, schema: &Schema) -> Value {
    let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/RequestId"}});
    if operation.answer.0 == 201 {
        headers["Location"] = json!({"$ref": "#/components/headers/Location"});
    }
    if operation.versioned {
        headers["ETag"] = json!({"$ref": "#/components/headers/ETag"});
    }
    let content = match operation.streams {
        true => json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}),
        false => json!({"application/json": {"schema": schema}}),
    };
    json!({"description": description, "headers": headers, "content": content})
}

/// The refusals that an operation may answer with: status and name of the component.
fn refusals(operation: &Operation) -> Vec<(u16, &'static str)> {
    let changes = operation.method != "GET";
    let all = [
        (400, "Invalid", true),
        (401, "Unauthenticated", operation.access != Access::Public || operation.throttled),
        (403, "Forbidden", true),
        (404, "NotFound", operation.path_names.is_some()),
        (408, "TooSlow", operation.body.is_some()),
        (409, "Conflict", changes),
        (412, "PreconditionFailed", operation.if_match != IfMatchRule::None),
        (413, "TooLarge", operation.body.is_some()),
        (415, "UnsupportedMediaType", operation.body.is_some()),
        (422, "IdempotencyKeyReused", operation.repeatable),
        (429, "TooManyAttempts", operation.throttled || operation.makes()),
        (428, "PreconditionRequired", operation.if_match == IfMatchRule::Required),
        (500, "Internal", true),
        (503, "Unavailable", true),
    ];
    all.into_iter().filter(|(_, _, possible)| *possible).map(|(status, name, _)| (status, name)).collect()
}

fn errors(schema: &Schema) -> Value {
    let error = |description: &str, more: Option<&str>| {
        let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/RequestId"}});
        if let Some(name) = more {
            headers[name] = json!({"$ref": format!("#/components/headers/{}", name.replace('-', ""))});
        }
        json!({
            "description": description,
            "headers": headers,
            "content": {"application/json": {"schema": schema}}
        })
    };
    json!({
        "Invalid": error("`VALIDATION_ERROR`: the request does not fit; `details.field` names the field at fault.", None),
        "Unauthenticated": error(
            "`AUTHENTICATION_FAILED`: no credential, or one that is unknown, expired or revoked.",
            Some("WWW-Authenticate")
        ),
        "Forbidden": error(
            "`PERMISSION_DENIED`: the credential may not do this, was sent from a browser, or the Host is not ours.",
            None
        ),
        "NotFound": error("`NOT_FOUND`: there is none, or it is out of your reach.", None),
        "Conflict": error("`CONFLICT`: what is there already stands against it.", None),
        "PreconditionFailed": error("`PRECONDITION_FAILED`: the record is no longer the version of `If-Match`.", None),
        "TooSlow": error("`VALIDATION_ERROR`: the body did not arrive in time.", None),
        "TooLarge": error("`VALIDATION_ERROR`: the body is larger than 64 KiB.", None),
        "UnsupportedMediaType": error("`UNSUPPORTED_MEDIA_TYPE`: a body must be `application/json`.", None),
        "IdempotencyKeyReused": error(
            "`IDEMPOTENCY_KEY_REUSED`: something else was asked for under this `Idempotency-Key`.",
            None
        ),
        "PreconditionRequired": error("`PRECONDITION_REQUIRED`: `If-Match` is missing.", None),
        "TooManyAttempts": error("`RATE_LIMITED`: too many attempts or changes of late.", Some("Retry-After")),
        "Internal": error("`INTERNAL_ERROR`: our fault.", None),
        "Unavailable": error(
            "`UNAVAILABLE`: not now. A change may have been made all the same: look before you try again.",
            Some("Retry-After")
        )
    })
}

fn headers() -> Value {
    let header =
        |description: &str, schema: Value| json!({"description": description, "required": true, "schema": schema});
    json!({
        "RequestId": header("The name of this request: yours, if you sent one and it does not look like a secret.", json!({"type": "string"})),
        "Location": header("The path of what was made.", json!({"type": "string"})),
        "ETag": header("The version of the record, for `If-Match`.", json!({"type": "string", "pattern": "^\"[0-9]+\"$"})),
        "WWWAuthenticate": header("How to authenticate, by RFC 6750.", json!({"type": "string"})),
        "RetryAfter": header("Seconds to wait.", json!({"type": "integer", "minimum": 1}))
    })
}

/// Doc comments come with the line breaks of the source.
fn unwrap_lines(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::String(text) if name == "description" => {
                        *text = text.replace("\n\n", "\u{0}").replace('\n', " ").replace('\u{0}', "\n\n");
                    }
                    _ => unwrap_lines(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(unwrap_lines),
        _ => {}
    }
}

static TEXT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

pub async fn serve() -> Response {
    reply::json_response(StatusCode::OK, TEXT.clone().into())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_operation_is_named_once_and_says_what_it_does() {
        let (mut names, mut places) = (HashSet::new(), HashSet::new());
        for operation in &OPERATIONS {
            assert!(names.insert(operation.name), "{}", operation.name);
            assert!(places.insert((operation.method, operation.path)), "{}", operation.name);
            assert!(!operation.summary.is_empty(), "{}", operation.name);
            assert!(operation.methods().contains(&operation.method), "{}", operation.name);
            let names_in_path = operation.path.matches('{').count();
            assert_eq!(operation.path_names.is_some(), names_in_path > 0, "{}", operation.name);
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_name_of_a_path_is_described() {
        fn walk<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|value| walk(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut references = Vec::new();
        walk(&document, &mut references);
        assert!(references.len() > 20);
        for reference in references {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
        for (path, operations) in document["paths"].as_object().unwrap() {
            for operation in operations.as_object().unwrap().values() {
                let described = operation["parameters"].as_array().unwrap().iter();
                let described = described.filter(|parameter| parameter["in"] == "path");
                assert_eq!(described.count(), path.matches('{').count(), "{path}");
            }
        }
    }
}
