//! Who makes a change, and what they may pass on. Never takes a right that is not named for one that is held.

use std::borrow::Cow;

use crate::domain::record::User;

/// Who makes a change, how far their hand reaches and what they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `key:<id>`, `user:<name>`, `<issuer>:<subject>`, or `operator` for whoever holds the admin socket.
    pub subject: String,
    /// What tells the actor from whoever else has or had the subject, such as the id of a user. `None`: the subject does, as that
    /// of a key, or the store gives no ids yet.
    pub id: Option<String>,
    /// The only project the actor may touch; `None`: every one.
    pub project: Option<String>,
    pub held: ActorPermissions,
    /// Where the request came from, for the audit log.
    pub peer: String,
    /// For the audit log.
    pub request_id: String,
}

/// The permissions that an actor holds: only these may be given to a key or a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActorPermissions {
    /// The operator's.
    Everything,
    Only(Vec<String>),
}

/// By the id where there is one, or else by the name.
pub(super) fn identity<'n>(id: Option<&str>, name: &'n str) -> Cow<'n, str> {
    id.map_or(Cow::Borrowed(name), |id| Cow::Owned(format!("#{id}")))
}

impl Actor {
    /// Whoever may open the admin socket.
    pub fn operator() -> Self {
        Self {
            subject: "operator".to_owned(),
            id: None,
            project: None,
            held: ActorPermissions::Everything,
            peer: String::new(),
            request_id: String::new(),
        }
    }

    /// What Tollgate does by itself.
    pub fn tollgate() -> Self {
        Self { subject: "tollgate".to_owned(), ..Self::operator() }
    }

    /// Whether it is whoever holds the admin socket, or Tollgate itself.
    pub(super) fn is_operator(&self) -> bool {
        self.held == ActorPermissions::Everything
    }

    /// What is kept or counted of the actor is found under this. Nobody else ever has it, whatever they are called; no subject
    /// begins as an id does here.
    pub(super) fn identity(&self) -> Cow<'_, str> {
        identity(self.id.as_deref(), &self.subject)
    }

    /// Whether the actor is this very user.
    pub(super) fn is(&self, user: &User) -> bool {
        let ids = self.id.as_deref().zip(user.id);
        self.user() == Some(&*user.name) && ids.is_none_or(|(own, id)| own == id.as_str())
    }

    /// The name of the user that the actor is, if it is one.
    pub fn user(&self) -> Option<&str> {
        self.subject.strip_prefix("user:")
    }

    /// `project` is a name or [`tollgate_core::resource::EVERY`], which only those reach who are bound to no project.
    pub(super) fn reaches(&self, project: &str) -> bool {
        self.project.as_deref().is_none_or(|own| own == project)
    }

    /// The first of the permissions that the actor does not hold.
    pub(super) fn lacks<'p>(&self, permissions: &'p [String]) -> Option<&'p str> {
        match &self.held {
            ActorPermissions::Everything => None,
            ActorPermissions::Only(held) => {
                permissions.iter().find(|permission| !held.contains(permission)).map(String::as_str)
            }
        }
    }
}
