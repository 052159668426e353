//! What the tokens of our own users say, and what they need to be one. Pure, as the rules for other issuers are.

use std::time::Duration;

use serde_json::json;
use tollgate_guard::time::Timestamp;

use crate::denial::Denial;
use crate::issuer::{Claims, validity};
use crate::name::is_name;

/// How users log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The `iss` and the `aud` of our tokens.
    pub issuer: Box<str>,
    /// The plane that users stand on.
    pub plane: Box<str>,
    /// How long a token lives.
    pub lifetime: Duration,
}

/// One login of one user, until it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The `jti` of its token.
    pub id: String,
    /// The name of the user.
    pub user: String,
    /// The user's generation of sessions at the login: tokens of another one are refused.
    pub generation: u64,
    pub expires_at: Timestamp,
    /// Whether there is a record of it from the login on, without which its token is refused.
    pub recorded: bool,
}

/// Our own clock made the times in these tokens.
const LEEWAY: Duration = Duration::ZERO;

impl Login {
    /// The claims of a token.
    pub fn claims(&self, session: &Session, now: Timestamp) -> Claims {
        let claims = json!({
            "iss": self.issuer,
            "aud": self.issuer,
            "sub": session.user,
            "jti": session.id,
            "generation": session.generation,
            "recorded": session.recorded,
            "iat": now.as_secs(),
            "exp": session.expires_at.as_secs(),
        });
        match claims {
            serde_json::Value::Object(claims) => claims,
            _ => Claims::new(),
        }
    }

    /// The session of a token whose signature is ours.
    ///
    /// # Errors
    /// As [`validity`]; [`Denial::TokenClaims`] if it is no session.
    pub fn session(&self, claims: &Claims, now: Timestamp) -> Result<Session, Denial> {
        let audiences = std::slice::from_ref(&self.issuer);
        let expires_at = validity(claims, &self.issuer, audiences, LEEWAY, now)?;
        let text = |name: &str| claims.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
        let generation = claims.get("generation").and_then(serde_json::Value::as_u64);
        let recorded = match claims.get("recorded") {
            // Of a release that kept no record without which a token is refused.
            None => Some(false),
            Some(recorded) => recorded.as_bool(),
        };
        match (text("jti").filter(|id| is_name(id)), text("sub"), generation, recorded) {
            (Some(id), Some(user), Some(generation), Some(recorded)) => {
                Ok(Session { id, user, generation, expires_at, recorded })
            }
            _ => Err(Denial::TokenClaims),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_session_comes_back_from_its_claims_and_from_no_others() {
        let login = Login { issuer: "https://a.test".into(), plane: "admin".into(), lifetime: Duration::from_secs(60) };
        let now = Timestamp::from_secs(1_000);
        let expires_at = Timestamp::from_secs(1_060);
        let (id, user) = ("s1".to_owned(), "ada@a.test".to_owned());
        let session = Session { id, user, generation: 7, expires_at, recorded: true };
        let mut earlier = login.claims(&session, now);
        earlier.remove("recorded");
        assert_eq!(login.session(&earlier, now), Ok(Session { recorded: false, ..session.clone() }));
        let claims = login.claims(&session, now);
        assert_eq!(login.session(&claims, now), Ok(session));
        assert_eq!(login.session(&claims, expires_at), Err(Denial::Expired));
        let other = Login { issuer: "https://b.test".into(), ..login.clone() };
        assert_eq!(other.session(&claims, now), Err(Denial::TokenIssuer));
        for (name, value, denial) in [
            ("aud", Value::from("https://b.test"), Denial::TokenAudience),
            ("jti", Value::Null, Denial::TokenClaims),
            ("jti", Value::from(""), Denial::TokenClaims),
            ("sub", Value::from(1), Denial::TokenClaims),
            ("generation", Value::from("7"), Denial::TokenClaims),
            ("generation", Value::from(-1), Denial::TokenClaims),
            ("exp", Value::from("1060"), Denial::TokenClaims),
            ("recorded", Value::Null, Denial::TokenClaims),
        ] {
            let mut twisted = claims.clone();
            twisted.insert(name.to_owned(), value);
            assert_eq!(login.session(&twisted, now), Err(denial), "{name}");
        }
    }
}
