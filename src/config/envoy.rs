//! What an Envoy file must let Tollgate do, compared with what it says. Opens nothing, and judges `ext_authz` alone.

use regex::Regex;
use serde_json::Value;
use tollgate_core::policy::OVERRIDES;
use tollgate_core::policy::Policy;

use super::problems::{Findings, Path, Problems};
use super::shape;

/// What raises the number of instructions, Envoy's own default of it, and what the shipped files say. `warn_level` beside it refuses
/// nothing.
const RE2_LIMIT: &str = "re2.max_program_size.error_level";
const DEFAULT_INSTRUCTIONS: u64 = 100;
const SHIPPED_INSTRUCTIONS: u64 = 1000;

/// The end of the type of the filter's configuration.
const FILTER: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";

/// Every character that may stand in a header name (RFC 9110 section 5.6.2) and is neither letter nor digit.
const SEPARATORS: &str = "-_.!#$%&'*+^`|~";

/// What each of them is in an expression.
const SEPARATOR: &str = "[[:punct:]]";

/// The expression for `decoder_header_mutation_rules.allow_expression.regex`: every header that is set or removed under
/// this policy, by every name that [`same_header`](tollgate_core::policy::same_header) takes for the same.
pub fn allow_expression(policy: &Policy) -> String {
    let names = names(policy).map(pattern);
    let prefixes = prefixes(policy).map(|prefix| format!("{}.*", pattern(prefix)));
    names.chain(prefixes).collect::<Vec<_>>().join("|")
}

/// What Envoy must be told besides, or it refuses a file with the expression: each is compiled to instructions, and their number
/// has a bound. `None`: the file tells it.
///
/// # Errors
/// If the file cannot be read.
pub fn missing_room(policy: &Policy, text: &str) -> Result<Option<String>, Problems> {
    let file = shape::parse_yaml(text)?;
    let needed = most_instructions(&allow_expression(policy));
    let given = raised_limit(&file).unwrap_or(DEFAULT_INSTRUCTIONS);
    Ok((given < needed).then(|| {
        let limit = needed.max(SHIPPED_INSTRUCTIONS);
        format!(
            "Envoy takes no expression of more than {given} instructions with this file, and this one may have {needed}: \
             add a layer `static_layer: {{{RE2_LIMIT}: {limit}}}` to its `layered_runtime`"
        )
    }))
}

/// Compares an Envoy file with what Tollgate does under this policy.
///
/// # Errors
/// Everything by which Envoy would not do what Tollgate says, or would withhold what Tollgate must see.
pub fn compare(policy: &Policy, text: &str) -> Result<(), Problems> {
    let file = shape::parse_yaml(text)?;
    let mut filters = Vec::new();
    find(&file, &Path::root(), &mut filters);
    if filters.is_empty() {
        return Err(Problems::one(format!("no HTTP filter in this file has the type {FILTER}")));
    }
    let mut findings = Findings::default();
    for (path, filter) in filters {
        withheld(filter, &path, &mut findings);
        if let Some(rules) = filter.get("decoder_header_mutation_rules") {
            changeable(policy, rules, &path.key("decoder_header_mutation_rules"), &mut findings);
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(findings.into_problems()) }
}

/// No less than RE2 makes of an expression as [`allow_expression`] gives it: one for each byte, seven for `[[:punct:]]`, which are four
/// ranges, and a few for the whole.
fn most_instructions(expression: &str) -> u64 {
    let ranges = expression.matches(SEPARATOR).count();
    let bytes = expression.len() - ranges * SEPARATOR.len();
    u64::try_from(bytes + 7 * ranges + 8).unwrap_or(u64::MAX)
}

/// The number in the last layer that has one, written with dots or as maps. What a layer gets elsewhere is not known.
fn raised_limit(file: &Value) -> Option<u64> {
    let layers = file["layered_runtime"]["layers"].as_array()?;
    let of = |layer: &Value| inner(&layer["static_layer"], RE2_LIMIT)?.as_u64();
    layers.iter().filter_map(of).next_back()
}

/// What stands under a name with dots, however it is divided.
fn inner<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    let whole = value.get(name);
    let ends = || name.match_indices('.').map(|(at, _)| at);
    whole.or_else(|| ends().find_map(|at| inner(value.get(&name[..at])?, &name[at + 1..])))
}

/// The headers that are set or removed by their whole name and stand under no reserved prefix.
fn names(policy: &Policy) -> impl Iterator<Item = &str> {
    policy.credentials.iter().map(|source| &*source.name).chain(OVERRIDES)
}

fn prefixes(policy: &Policy) -> impl Iterator<Item = &str> {
    policy.identity.reserved_prefixes.iter().map(|prefix| &**prefix)
}

fn pattern(name: &str) -> String {
    let one = |c: char| if c.is_ascii_alphanumeric() { c.to_string() } else { SEPARATOR.to_owned() };
    name.chars().map(one).collect()
}

fn find<'f>(value: &'f Value, path: &Path, found: &mut Vec<(Path, &'f Value)>) {
    match value {
        Value::Object(map) => {
            let is_filter = |kind: &Value| kind.as_str().is_some_and(|kind| kind.ends_with(FILTER));
            if map.get("@type").is_some_and(is_filter) {
                found.push((path.clone(), value));
            }
            map.iter().for_each(|(key, value)| find(value, &path.key(key), found));
        }
        Value::Array(list) => list.iter().enumerate().for_each(|(at, value)| find(value, &path.index(at), found)),
        _ => {}
    }
}

/// Lists that keep request headers from the check: what Tollgate does not see, it does not remove.
fn withheld(filter: &Value, path: &Path, findings: &mut Findings) {
    for list in ["allowed_headers", "disallowed_headers"] {
        if filter.get(list).is_some() {
            findings
                .add(&path.key(list), "withholds headers from Tollgate, which then cannot remove them: take it out");
        }
    }
}

/// Whether the rules let Tollgate set and remove what it must.
fn changeable(policy: &Policy, rules: &Value, path: &Path, findings: &mut Findings) {
    let is_on = |key: &str| rules[key]["value"].as_bool().or_else(|| rules[key].as_bool()).unwrap_or_default();
    if !is_on("disallow_is_error") {
        let problem = "a header that may not be removed reaches the back end, and nobody is told";
        findings.suggest(
            &path.key("disallow_is_error"),
            problem,
            Some("write `disallow_is_error: {value: true}`".into()),
        );
    }
    let mut expression = |key: &str| {
        let text = rules[key]["regex"].as_str()?;
        let path = path.key(key).key("regex");
        match Regex::new(&format!("^(?:{text})$")) {
            Ok(regex) => Some(regex),
            Err(error) => {
                findings.add(&path, format!("cannot be read: {error}"));
                None
            }
        }
    };
    let (denied, allowed) = (expression("disallow_expression"), expression("allow_expression"));
    let by_default = !is_on("disallow_all");
    let may_change = |name: &str| {
        let hit = |regex: &Option<Regex>| regex.as_ref().is_some_and(|regex| regex.is_match(name));
        !hit(&denied) && (by_default || hit(&allowed))
    };
    let identity = policy.identity.names().map(str::to_owned);
    let others = prefixes(policy).map(|prefix| format!("{prefix}other"));
    for name in names(policy).map(str::to_owned).chain(identity).chain(others) {
        if let Some(lost) = spellings(&name).find(|name| !may_change(name)) {
            let what = if lost == name { String::new() } else { format!(", another spelling of `{name}`,") };
            findings.add(&path.key("allow_expression"), format!("`{lost}`{what} may not be changed by Tollgate"));
        }
    }
}

/// The name, and what back ends take for the same.
fn spellings(name: &str) -> impl Iterator<Item = String> {
    let last = name.rfind(|c: char| !c.is_ascii_alphanumeric());
    let spelled = move |with: char| {
        let with = with.to_string();
        let fold = |c: char| !c.is_ascii_alphanumeric();
        let one = last.map(|at| format!("{}{with}{}", &name[..at], &name[at + 1..]));
        [Some(name.replace(fold, &with)), Some(name.replacen(fold, &with, 1)), one].into_iter().flatten()
    };
    std::iter::once(name.to_owned()).chain(SEPARATORS.chars().flat_map(spelled))
}
