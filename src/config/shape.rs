//! YAML text to a [`File`]: syntax, then every key and type against the schema at once. Judges shapes only, and bounds what
//! a hostile file can cost.

use std::sync::LazyLock;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::LocationSegment;
use jsonschema::{JsonType, ValidationError, Validator};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::UserMessageFormatter;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};

use super::file::File;
use super::problems::{Findings, Path, Problems, did_you_mean, near_or_all};

/// A configuration of thousands of routes is far below this.
pub(super) const MAX_BYTES: usize = 4 << 20;
/// Scalars, lists and maps, those that aliases repeat included.
const MAX_NODES: usize = 200_000;

/// The schema, and what checks against it.
static CHECKER: LazyLock<Result<(Value, Validator), String>> = LazyLock::new(|| {
    let schema = super::schema();
    match jsonschema::draft202012::new(&schema) {
        Ok(validator) => Ok((schema, validator)),
        Err(error) => Err(error.to_string()),
    }
});

/// A file of the right shape, but for the unknown keys that were found and left out.
pub(super) struct Shaped {
    pub(super) file: File,
    pub(super) findings: Findings,
    /// The maps in which an unknown key stood.
    pub(super) misread: Vec<Path>,
}

/// # Errors
/// Everything that is wrong with the shape, if the rest cannot be judged because of it.
pub(super) fn read(text: &str) -> Result<Shaped, Problems> {
    let mut value = parse_yaml(text)?;
    let (schema, validator) = match &*CHECKER {
        Ok((schema, validator)) => (schema, validator),
        Err(error) => return Err(Problems::one(format!("the schema of the configuration is wrong: {error}"))),
    };
    let mut findings = Findings::default();
    let mut unknown = Vec::new();
    for error in validator.iter_errors(&value) {
        describe(&error, schema, &mut findings);
        if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() {
            unknown.push((error.instance_path().as_str().to_owned(), path_of(&error), unexpected.clone()));
        }
    }
    let mut misread = Vec::new();
    for (pointer, path, keys) in unknown {
        if let Some(Value::Object(map)) = value.pointer_mut(&pointer) {
            map.retain(|key, _| !keys.contains(key));
        }
        misread.push(path);
    }
    match serde_json::from_value(value) {
        Ok(file) => Ok(Shaped { file, findings, misread }),
        Err(error) => {
            if findings.is_empty() {
                findings.add(&Path::root(), error.to_string());
            }
            Err(findings.into_problems())
        }
    }
}

pub(super) fn parse_yaml(text: &str) -> Result<Value, Problems> {
    if text.len() > MAX_BYTES {
        return Err(Problems::one(format!("the file has more than {} MiB", MAX_BYTES >> 20)));
    }
    let budget = serde_saphyr::budget! {
        max_events: 2 * MAX_NODES,
        max_nodes: MAX_NODES,
        max_anchors: 1_000,
        max_aliases: 10_000,
        max_recorded_anchor_events: MAX_NODES,
        max_documents: 1,
    };
    let mut options = serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        legacy_octal_numbers: false,
        non_finite_float_policy: NonFiniteFloatPolicy::Reject,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    options.alias_limits.max_total_replayed_events = MAX_NODES;
    match serde_saphyr::from_str_with_options(text, options) {
        Ok(Node(Value::Null)) => Err(Problems::one("the file is empty")),
        Ok(Node(value)) => Ok(value),
        Err(error) => {
            let place = error.location().filter(|place| place.line() > 0);
            let message = error.render_with_formatter(&UserMessageFormatter);
            Err(Problems::one(match place {
                Some(place) if !message.contains("line ") => {
                    format!("line {}, column {}: {message}", place.line(), place.column())
                }
                _ => message,
            }))
        }
    }
}

/// A value in which no key stands twice, also where YAML takes `1` and `"1"` for two keys.
struct Node(Value);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor).map(Self)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map, a list or a plain value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Node(value)) = access.next_element()? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let Node(value) = access.next_value()?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{key}` stands twice")));
            }
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

fn path_of(error: &ValidationError<'_>) -> Path {
    error.instance_path().segments().fold(Path::root(), |path, segment| match segment {
        LocationSegment::Property(key) => path.key(&key),
        LocationSegment::Index(at) => path.index(at),
    })
}

/// Says in the reader's words what the schema does not allow.
fn describe(error: &ValidationError<'_>, schema: &Value, findings: &mut Findings) {
    let path = path_of(error);
    let found = error.instance();
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let known = keys_beside(error, schema);
            for key in unexpected {
                let suggestion = near_or_all(key, "the keys here are", &known);
                findings.suggest(&path.key(key), "unknown key", suggestion);
            }
        }
        ValidationErrorKind::Required { property } => {
            let key = property.as_str().unwrap_or_default();
            findings.add(&path.key(key), "is missing");
        }
        // What is of another kind altogether is reported as such.
        ValidationErrorKind::Enum { options } if options[0].is_string() != found.is_string() => {}
        ValidationErrorKind::Enum { options } => {
            let words: Vec<String> = options.as_array().into_iter().flatten().map(plain).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            // A number is not misspelt.
            let near = found.as_str().and_then(|said| did_you_mean(said, words.iter().copied()));
            let suggestion = near.unwrap_or_else(|| format!("it may be: {}", words.join(", ")));
            findings.suggest(&path, format!("`{}` is not possible here", plain(found)), Some(suggestion));
        }
        ValidationErrorKind::Type { kind } => {
            let text_wanted = matches!(kind, TypeKind::Single(JsonType::String));
            let quotes = (text_wanted && !found.is_null() && !found.is_array() && !found.is_object())
                .then(|| "put it in quotes".to_owned());
            findings.suggest(&path, format!("must be {}, not {}", wanted(kind), kind_of(found)), quotes);
        }
        ValidationErrorKind::Minimum { limit } => findings.add(&path, format!("must be at least {limit}")),
        ValidationErrorKind::Maximum { limit } => findings.add(&path, format!("must be at most {limit}")),
        ValidationErrorKind::MinItems { limit } => findings.add(&path, format!("needs at least {limit} entry")),
        _ => findings.add(&path, error.to_string()),
    }
}

/// The keys that the schema knows where an unknown one stood.
fn keys_beside<'s>(error: &ValidationError<'_>, schema: &'s Value) -> Vec<&'s str> {
    let place = error.schema_path().as_str();
    let object = place.rsplit_once('/').and_then(|(object, _)| schema.pointer(object));
    let properties = object.and_then(|object| object.get("properties")).and_then(Value::as_object);
    properties.into_iter().flat_map(|keys| keys.keys()).map(String::as_str).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().take(64).collect(),
        Value::Array(_) | Value::Object(_) => kind_of(value).to_owned(),
        other => other.to_string(),
    }
}

fn wanted(kind: &TypeKind) -> String {
    let name = |kind: JsonType| match kind {
        JsonType::Array => "a list",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Null => "null",
        JsonType::Number => "a number",
        JsonType::Object => "a map",
        JsonType::String => "text",
    };
    match kind {
        TypeKind::Single(kind) => name(*kind).to_owned(),
        TypeKind::Multiple(kinds) => kinds.iter().map(name).collect::<Vec<_>>().join(" or "),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
