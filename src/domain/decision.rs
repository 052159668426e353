//! Why a request was denied, and the trace of a decision. Values of codes: rendering them is another room's work.

use super::credential::KeyId;

/// Why a request was denied. Each becomes exactly one status in `policy::respond`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// The check message could not be read.
    CheckUnreadable,
    HostUnknown,
    PathNotCanonical,
    RouteUnknown,
    /// One of our keys stands in the path or the query.
    CredentialInTarget,
    CredentialMissing,
    CredentialAmbiguous,
    CredentialUnreadable,
    CredentialMalformed,
    CredentialUnknown,
    /// The header of a token asks for what is not accepted: its algorithm, its type, or an extension.
    TokenHeader,
    /// No configured issuer made the token.
    TokenIssuer,
    /// The issuer has no such key.
    TokenKey,
    TokenSignature,
    /// A claim is missing, or is not what it should be.
    TokenClaims,
    /// The token is meant for others.
    TokenAudience,
    TokenNotYetValid,
    /// The route takes credentials of another kind.
    CredentialKind,
    WrongPlane,
    /// An API key in a browser: the request has an `Origin` and the route does not allow that.
    BrowserOrigin,
    /// Revoked, on a plane that answers 401.
    RevokedUnauthenticated,
    /// Revoked, on a plane that answers 403.
    RevokedForbidden,
    /// The grace of its rotation is over, on a plane that answers 401.
    RetiredUnauthenticated,
    /// The grace of its rotation is over, on a plane that answers 403.
    RetiredForbidden,
    Expired,
    PermissionMissing,
    ProjectOutOfScope,
    WorkloadOutOfScope,
    /// Unknown, or in another project: the client cannot tell which.
    ResourceOutOfScope,
    /// More or larger request headers than Envoy could carry on with those that say who asks.
    HeadersTooLarge,
    /// Envoy keeps request headers from the check, so that what a client sent in them could not be removed.
    HeadersWithheld,
    /// The truth could not be reached, or too many look-ups were under way.
    Unavailable,
    /// Our own fault: a panic, or a record that cannot be written into a header.
    Internal,
}

impl Denial {
    pub const ALL: [Self; 33] = [
        Self::CheckUnreadable,
        Self::HostUnknown,
        Self::PathNotCanonical,
        Self::RouteUnknown,
        Self::CredentialInTarget,
        Self::CredentialMissing,
        Self::CredentialAmbiguous,
        Self::CredentialUnreadable,
        Self::CredentialMalformed,
        Self::CredentialUnknown,
        Self::TokenHeader,
        Self::TokenIssuer,
        Self::TokenKey,
        Self::TokenSignature,
        Self::TokenClaims,
        Self::TokenAudience,
        Self::TokenNotYetValid,
        Self::CredentialKind,
        Self::WrongPlane,
        Self::BrowserOrigin,
        Self::RevokedUnauthenticated,
        Self::RevokedForbidden,
        Self::RetiredUnauthenticated,
        Self::RetiredForbidden,
        Self::Expired,
        Self::PermissionMissing,
        Self::ProjectOutOfScope,
        Self::WorkloadOutOfScope,
        Self::ResourceOutOfScope,
        Self::HeadersTooLarge,
        Self::HeadersWithheld,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The word for metrics, logs and `explain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CheckUnreadable => "check_unreadable",
            Self::HostUnknown => "host_unknown",
            Self::PathNotCanonical => "path_not_canonical",
            Self::RouteUnknown => "route_unknown",
            Self::CredentialInTarget => "credential_in_target",
            Self::CredentialMissing => "credential_missing",
            Self::CredentialAmbiguous => "credential_ambiguous",
            Self::CredentialUnreadable => "credential_unreadable",
            Self::CredentialMalformed => "credential_malformed",
            Self::CredentialUnknown => "credential_unknown",
            Self::TokenHeader => "token_header",
            Self::TokenIssuer => "token_issuer",
            Self::TokenKey => "token_key",
            Self::TokenSignature => "token_signature",
            Self::TokenClaims => "token_claims",
            Self::TokenAudience => "token_audience",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::CredentialKind => "credential_kind",
            Self::WrongPlane => "wrong_plane",
            Self::BrowserOrigin => "browser_origin",
            Self::RevokedUnauthenticated | Self::RevokedForbidden => "revoked",
            Self::RetiredUnauthenticated | Self::RetiredForbidden => "retired",
            Self::Expired => "expired",
            Self::PermissionMissing => "permission_missing",
            Self::ProjectOutOfScope => "project_out_of_scope",
            Self::WorkloadOutOfScope => "workload_out_of_scope",
            Self::ResourceOutOfScope => "resource_out_of_scope",
            Self::HeadersTooLarge => "headers_too_large",
            Self::HeadersWithheld => "headers_withheld",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

/// Where a look-up was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// In process, a known entry.
    Cache,
    /// In process, known to be unknown.
    NegativeCache,
    Store,
    /// Nowhere: a signature was verified.
    Verified,
}

impl Tier {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "l1",
            Self::NegativeCache => "l1_negative",
            Self::Store => "store",
            Self::Verified => "verified",
        }
    }
}

/// Index of a route in the policy that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(pub u32);

/// What happened on the way to a decision, as codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    pub route: Option<RouteId>,
    /// The public id of the key that was presented, once its grammar was found good.
    pub key_id: Option<KeyId>,
    pub principal: Option<Tier>,
    pub resource: Option<Tier>,
    /// `None`: allowed.
    pub denied: Option<Denial>,
}

impl Trace {
    /// The trace of a decision that has not begun. It counts as a denial until a permit says otherwise.
    pub fn begin() -> Self {
        Self { route: None, key_id: None, principal: None, resource: None, denied: Some(Denial::Internal) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_denial_once() {
        let mut seen = std::collections::HashSet::new();
        assert!(Denial::ALL.iter().all(|denial| seen.insert(*denial)));
    }
}
