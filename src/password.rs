//! Passwords: their rules and their hashes. Never keeps one.

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use zeroize::Zeroizing;

/// Hashes passwords with argon2id.
#[derive(Clone, Debug, Default)]
pub struct Passwords;

/// Too much is being hashed: ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl Passwords {
    /// # Errors
    /// If the system gives no thread.
    pub fn start() -> std::io::Result<Self> {
        Ok(Self)
    }

    /// # Errors
    /// What a password must be.
    pub fn check_rules(password: &str) -> Result<(), &'static str> {
        if matches!(password.len(), 12..=256) { Ok(()) } else { Err("must have 12 to 256 bytes") }
    }

    /// A PHC string.
    ///
    /// # Errors
    /// [`Busy`] if it cannot be made now.
    pub async fn hash(&self, password: Zeroizing<String>) -> Result<String, Busy> {
        let work = move || Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string());
        tokio::task::spawn_blocking(work).await.map_err(|_| Busy)?.map_err(|_| Busy)
    }
}
