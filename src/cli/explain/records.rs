//! The records that an explanation is given: keys from files, resources from flags. A key's secret is never among them; a
//! stand-in that only this process knows takes its place.

use std::path::Path;

use tollgate_core::credential::{KeyId, MintedKey, PresentedKey};
use tollgate_core::policy::Policy;
use tollgate_core::resource::Resource;
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;

use crate::cli::{Exit, Failure};
use crate::domain::record::ApiKey;
use crate::resolve::api_key::Digester;
use crate::server::admin::wire::keys::KeyBody;
use crate::server::admin::wire::timestamp;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key's record from a file, with a stand-in for its secret.
pub struct GivenKey {
    record: ApiKey,
    prefix: String,
    stand_in: MintedKey,
}

impl GivenKey {
    /// Reads what `keys show -o json` printed.
    ///
    /// # Errors
    /// A usage failure if it is no such record, or of a plane that is not configured.
    pub fn read(path: &Path, policy: &Policy) -> Result<Self, Failure> {
        let wrong = |problem: String| Failure::usage(format!("{}: {problem}", path.display()));
        let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let body: KeyBody = serde_json::from_slice(&text)
            .map_err(|error| wrong(format!("is not what `keys show -o json` prints ({:?})", error.classify())))?;
        let record = record_of(&body).map_err(&wrong)?;
        let Some(plane) = policy.planes.iter().find(|plane| *plane.name == *record.plane) else {
            return Err(wrong(format!("the plane `{}` of this key is not configured", record.plane)));
        };
        let stand_in = stand_in(&plane.prefix, &record.id)?;
        Ok(Self { record, prefix: plane.prefix.to_string(), stand_in })
    }

    pub fn id(&self) -> KeyId {
        self.record.id
    }

    /// A key with the public id of the record, and a secret of its own.
    pub fn stand_in(&self) -> &str {
        self.stand_in.expose()
    }

    /// The record, as it would be stored under this digest.
    pub fn record(&self, digest: Digest) -> ApiKey {
        ApiKey { digest, ..self.record.clone() }
    }

    pub fn record_of_stand_in(&self, digester: &Digester) -> Result<ApiKey, Failure> {
        let presented = PresentedKey::parse(self.stand_in.expose(), &self.prefix)
            .map_err(|_| Failure::new(Exit::Failed, "a stand-in does not follow the grammar of keys"))?;
        Ok(self.record(digester.current(&presented)))
    }
}

/// Mints a key whose public id is not drawn but given.
fn stand_in(prefix: &str, id: &KeyId) -> Result<MintedKey, Failure> {
    let digit = |byte: &u8| BASE62.iter().position(|known| known == byte).and_then(|at| u8::try_from(at).ok());
    let wanted: Vec<u8> = id.as_str().as_bytes().iter().filter_map(digit).collect();
    let mut wanted = Some(wanted);
    let minted = MintedKey::generate(prefix, |buffer| {
        getrandom::fill(buffer)?;
        // The id is what the first bytes become.
        if let Some(wanted) = wanted.take()
            && let Some(start) = buffer.get_mut(..wanted.len())
        {
            start.copy_from_slice(&wanted);
        }
        Ok(())
    });
    let minted = minted.map_err(|error: getrandom::Error| Failure::new(Exit::Failed, error.to_string()))?;
    if minted.id() == *id { Ok(minted) } else { Err(Failure::new(Exit::Failed, "a stand-in has another id")) }
}

fn record_of(body: &KeyBody) -> Result<ApiKey, String> {
    let time = |name: &str, text: &Option<String>| match text.as_deref().map(timestamp) {
        None => Ok(None),
        Some(Some(time)) => Ok(Some(time)),
        Some(None) => Err(format!("{name} is no time in RFC 3339")),
    };
    let id = |name: &str, text: &str| KeyId::parse(text).ok_or(format!("{name} is no id of a key"));
    let optional_id = |name, text: &Option<String>| text.as_deref().map(|text| id(name, text)).transpose();
    Ok(ApiKey {
        id: id("id", &body.id)?,
        digest: Digest([0; 32]),
        pepper_version: 1,
        name: body.name.clone(),
        plane: body.plane.clone(),
        project: body.project.clone(),
        project_id: None,
        workloads: body.workloads.clone(),
        permissions: body.permissions.clone(),
        created_at: timestamp(&body.created_at).ok_or("created_at is no time in RFC 3339")?,
        created_by: body.created_by.clone(),
        expires_at: time("expires_at", &body.expires_at)?,
        retires_at: time("retires_at", &body.retires_at)?,
        revoked_at: time("revoked_at", &body.revoked_at)?,
        replaces: optional_id("replaces", &body.replaces)?,
        replaced_by: optional_id("replaced_by", &body.replaced_by)?,
        version: body.version,
    })
}

/// A resource, as it would be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenResource {
    kind: String,
    id: String,
    project: String,
    slug: String,
}

impl GivenResource {
    pub fn record(&self) -> Resource {
        Resource {
            kind: self.kind.clone(),
            id: self.id.clone(),
            slug: self.slug.clone(),
            project: self.project.clone(),
            project_id: None,
            owner: None,
            created_at: Timestamp::default(),
            version: 1,
        }
    }
}

/// Reads `kind:id=project[/slug]`.
///
/// # Errors
/// A sentence for whoever wrote it.
pub fn resource(text: &str) -> Result<GivenResource, String> {
    let wrong = || "write KIND:ID=PROJECT or KIND:ID=PROJECT/SLUG, such as workload:w-42=acme/chat".to_owned();
    let (reference, place) = text.split_once('=').ok_or_else(wrong)?;
    let (kind, id) = crate::cli::resources::reference(reference)?;
    let (project, slug) = place.split_once('/').unwrap_or((place, &id));
    if project.is_empty() || slug.is_empty() {
        return Err(wrong());
    }
    Ok(GivenResource { project: project.to_owned(), slug: slug.to_owned(), kind, id: id.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_has_the_id_and_follows_the_grammar() {
        for id in ["abcdefghijkl", "000000000000", "zzzzzzzzzzzz", "A9z0Zb1c2d3E"] {
            let id = KeyId::parse(id).unwrap();
            let key = stand_in("ik_live", &id).unwrap();
            assert_eq!(PresentedKey::parse(key.expose(), "ik_live").unwrap().id(), id);
            assert_ne!(key.expose(), stand_in("ik_live", &id).unwrap().expose());
        }
    }

    #[test]
    fn resources_are_written_in_one_word() {
        let full = resource("workload:w-42=acme/chat").unwrap().record();
        assert_eq!((&*full.kind, &*full.id, &*full.project, &*full.slug), ("workload", "w-42", "acme", "chat"));
        assert_eq!(resource("workload:w-42=acme").unwrap().slug, "w-42");
        for bad in ["", "w", "a:b", "a=b", ":b=c", "a:=c", "a:b=", "a:b=/c", "a:b=c/"] {
            assert!(resource(bad).is_err(), "{bad}");
        }
    }
}
