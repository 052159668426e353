//! The grammars of names, ids and times as JSON Schemas, for the description of the API. Judges nothing: what a request says is
//! checked where it is used.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// Makes a type that stands for a grammar in the schemas of the wire.
macro_rules! grammar {
    ($name:ident, $schema:tt) => {
        #[derive(Debug)]
        pub struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

grammar!(Name, {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    "description": "1 to 64 letters, digits, dots, underscores and dashes; the first is a letter or a digit.",
    "examples": ["acme"]
});
grammar!(NameOrEvery, {
    "type": "string",
    "pattern": "^([*]|[A-Za-z0-9][A-Za-z0-9._-]{0,63})$",
    "description": "A name, or `*` for every one.",
    "examples": ["acme"]
});
grammar!(Names, {
    "type": "array",
    "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
    "minItems": 1,
    "maxItems": 256,
    "description": "Names; order and repetition do not matter.",
    "examples": [["run_inference"]]
});
grammar!(Scopes, {
    "anyOf": [
        {"type": "array", "items": {"const": "*"}, "minItems": 1, "maxItems": 1},
        {
            "type": "array",
            "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
            "minItems": 1,
            "maxItems": 256
        }
    ],
    "description": "Names of workloads, or `*` alone for every workload of the project.",
    "examples": [["*"]]
});
grammar!(KeyIdText, {
    "type": "string",
    "pattern": "^[A-Za-z0-9]{12}$",
    "description": "The public id of a key: the 12 characters behind its prefix.",
    "examples": ["Ab3dEf6hIj9l"]
});
grammar!(Label, {
    "type": "string",
    "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f][^\\x00-\\x1f\\x7f-\\x9f]*$",
    "minLength": 1,
    "maxLength": 128,
    "description": "A text for people: 1 to 128 characters, none of them a control character.",
    "examples": ["chat front end"]
});
grammar!(Seconds, {
    "type": "string",
    "pattern": "^[2-8]s$",
    "description": "Whole seconds, from 2s to 8s.",
    "examples": ["5s"]
});
grammar!(Time, {
    "type": "string",
    "format": "date-time",
    "description": "A point in time by RFC 3339; answers are in UTC.",
    "examples": ["2027-01-31T12:00:00Z"]
});
grammar!(UserName, {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$",
    "description": "1 to 64 letters, digits and `. _ @ + -`; the first is a letter or a digit. Case counts.",
    "examples": ["alice@example.com"]
});
grammar!(LoginName, {
    "type": "string",
    "pattern": "^([A-Za-z0-9][A-Za-z0-9._-]{0,63}/)?[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$",
    "description": "The name of a user behind the project and a slash; or the name alone, for users of every \
        project, in your own project, and where nobody else has it.",
    "examples": ["acme/alice@example.com"]
});
grammar!(LoginNameInPath, {
    "type": "string",
    "pattern": "^([A-Za-z0-9][A-Za-z0-9._-]{0,63}:)?[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$",
    "description": "As the name of a user is said elsewhere, with a colon in place of the slash: a path takes no encoded slash.",
    "examples": ["acme:alice@example.com"]
});
grammar!(PasswordText, {
    "type": "string",
    "format": "password",
    "minLength": 12,
    "maxLength": 256,
    "writeOnly": true,
    "description": "12 to 256 characters.",
    "examples": ["correct horse battery staple"]
});
