//! The path of a route, as the configuration has it. Never matches anything by itself.

use crate::name::is_name;
use crate::path::is_canonical;

/// A path with parameters: `/a/{b}/{rest*}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// The same for two patterns that match the same paths, whatever their parameters are called.
    pub(crate) router_form: String,
    pub params: Vec<String>,
}

impl PathPattern {
    /// # Errors
    /// A sentence for the author of the configuration.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("the path `{text}` must begin with `/`"));
        };
        let mut router_form = String::new();
        let mut params: Vec<String> = Vec::new();
        let count = rest.split('/').count();
        for (at, segment) in rest.split('/').enumerate() {
            router_form.push('/');
            let Some(inner) = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) else {
                if segment.contains(['{', '}']) {
                    return Err(format!("in `{text}`, a parameter must be a whole segment: `/{{name}}/`"));
                }
                router_form.push_str(segment);
                continue;
            };
            let (name, star) = inner.strip_suffix('*').map_or((inner, ""), |name| (name, "*"));
            if !is_name(name) {
                return Err(format!("in `{text}`, the parameter `{{{inner}}}` needs a name"));
            }
            if !star.is_empty() && at + 1 != count {
                return Err(format!("in `{text}`, `{{{name}*}}` may only stand at the end"));
            }
            if params.iter().any(|known| known == name) {
                return Err(format!("in `{text}`, the parameter `{name}` stands twice"));
            }
            router_form.push_str(&format!("{{{star}p{}}}", params.len()));
            params.push(name.to_owned());
        }
        if text.contains('%') {
            return Err(format!("the path `{text}` is percent-encoded: a pattern is written plain"));
        }
        let sample = router_form.replace(['{', '}', '*'], "");
        if !is_canonical(&sample) {
            return Err(format!(
                "the path `{text}` is not canonical, so no request could match it: no empty or dot segments, no `;`, \
                 no needless percent-encoding"
            ));
        }
        Ok(Self { router_form, params })
    }
}
