//! Why a request was denied: one table, which holds whatever anybody is told of a reason. Never holds anything of a request.

/// What the client is told. Where several reasons share one of these, it cannot tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    /// Of the body, such as `PERMISSION_DENIED`.
    pub code: &'static str,
    pub message: &'static str,
    pub challenge: Challenge,
    pub details: Details,
}

/// `WWW-Authenticate`, by RFC 6750 section 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// None is sent.
    None,
    /// No error, since nothing was presented.
    Bare,
    InvalidToken,
    /// With the permissions that the route requires.
    InsufficientScope,
}

/// What the answer adds from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Details {
    None,
    /// Each header that credentials are taken from, and in which form.
    AcceptedCredentials,
    /// Of the route.
    RequiredPlane,
    /// Of the route.
    RequiredPermissions,
}

/// One line of the table.
#[derive(Debug)]
struct Row {
    /// For metrics, logs and `explain`. A reason whose status the plane chooses has two rows with one word.
    word: &'static str,
    answer: Answer,
    /// To an operator: what happened.
    why: &'static str,
    /// To an operator: what to do about it.
    help: &'static str,
}

/// The enum, the list of its variants and the row of each.
macro_rules! denials {
    ($($name:ident: $word:literal, $answer:expr, $why:literal, $help:literal;)*) => {
        /// Why a request was denied.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Denial {
            $(#[doc = $why] $name,)*
        }

        impl Denial {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            const fn row(self) -> Row {
                match self {
                    $(Self::$name => Row { word: $word, answer: $answer, why: $why, help: $help },)*
                }
            }
        }
    };
}

denials! {
    CheckUnreadable: "check_unreadable", invalid("The request could not be read."),
        "the check could not be read",
        "See what asks: only Envoy, over ext_authz by gRPC, does it as it should.";
    HostUnknown: "host_unknown", forbidden("No rule allows this host, method and path."),
        "no host of the configuration matches",
        "Add the host to `hosts`, or correct the `Host` that the client sends.";
    PathNotCanonical: "path_not_canonical",
        invalid("The path is not canonical: send it without empty or dot segments, `;`, `\\` or needless percent-encoding."),
        "the path has more than one reading",
        "Have the client send the plain path. Envoy's `normalize_path` and `merge_slashes` mend most of them.";
    RouteUnknown: "route_unknown", forbidden("No rule allows this host, method and path."),
        "no route of this host has this method and path",
        "Add a route, or correct the request: a trailing slash and the case of letters count.";
    CredentialInTarget: "credential_in_target", invalid(KEY_IN_URL),
        "a key stands in the path or the query, where logs keep it",
        "Send the key in a header, and rotate it.";
    CredentialMissing: "credential_missing",
        Answer { challenge: Challenge::Bare, details: Details::AcceptedCredentials,
            ..unauthenticated("No credential was presented.") },
        "no credential in any configured header",
        "Send one of what the answer lists under `accepted`. Behind another proxy, see whether it removes the header.";
    CredentialAmbiguous: "credential_ambiguous",
        invalid("More than one credential was presented: send exactly one."),
        "more than one credential",
        "Send one header, once. Some client libraries add an `Authorization` of their own.";
    CredentialUnreadable: "credential_unreadable", invalid("The credential has characters that no credential has."),
        "the credential is not plain text",
        "Look for quotes, line ends or a placeholder that was not filled in.";
    CredentialMalformed: "credential_malformed",
        unauthenticated("The credential is not well formed: was it cut or mistyped?"),
        "the credential is neither a key with a configured prefix and a good checksum, nor a token where tokens are taken",
        "Copy the whole key again. For a token, see whether `credentials` takes tokens in this header.";
    CredentialUnknown: "credential_unknown", NOT_VALID,
        "no record has this secret",
        "`tollgate keys show` with the key's id says whether there is such a key: it may be of another store or pepper, or have another secret. For a session: its user was deleted.";
    TokenHeader: "token_header", NOT_VALID,
        "the token asks for an algorithm, a type or an extension that is not accepted",
        "Compare the token's header with the issuer's `algorithms`.";
    TokenIssuer: "token_issuer", NOT_VALID,
        "no configured issuer has the `iss` of the token",
        "Compare `iss` with `issuers`, letter by letter: a trailing slash counts.";
    TokenKey: "token_key", NOT_VALID,
        "the issuer has no key of this name and algorithm",
        "See whether the issuer publishes the key; the log says whether its key set could be fetched.";
    TokenSignature: "token_signature", NOT_VALID,
        "the signature is not the issuer's",
        "A few are cut or mistyped; many are an attack, or an issuer that changed a key under the same `kid`.";
    TokenClaims: "token_claims", NOT_VALID,
        "a claim is missing, or is not what the issuer's configuration expects",
        "Compare the token's claims with the issuer's configuration: names, types, and lists that are too long.";
    TokenAudience: "token_audience", NOT_VALID,
        "the token is meant for others: its `aud` is none of the issuer's `audience`",
        "Have the client ask its identity provider for a token for this API, or add the audience.";
    TokenNotYetValid: "token_not_yet_valid", NOT_VALID,
        "the token is not valid yet",
        "Compare the clocks of the issuer and of this machine; `leeway_seconds` allows for a small difference.";
    CredentialKind: "credential_kind", forbidden("This kind of credential cannot be used here."),
        "the route takes credentials of another kind",
        "Use the other kind, or change the route's `credentials`.";
    WrongPlane: "wrong_plane",
        Answer { details: Details::RequiredPlane, ..forbidden("This kind of credential cannot be used here.") },
        "the caller is of another plane than the route",
        "Use a credential of the plane that the answer names as `required_plane`. An issuer whose tokens are to be taken needs a `plane`.";
    BrowserOrigin: "browser_origin",
        forbidden("API keys are for trusted back ends: this route takes none from a browser."),
        "the request has an Origin header, and the route has no `origin: allow`",
        "Keep keys out of web pages: call from a back end, or let users log in.";
    RevokedUnauthenticated: "revoked", NOT_VALID,
        "the key is revoked, its project is suspended, its user is disabled, or its session has ended",
        "`tollgate audit list --target key:ID` says who revoked it. Make a new key, resume the project, or log in again.";
    RevokedForbidden: "revoked", NO_LONGER,
        "the key is revoked, its project is suspended, its user is disabled, or its session has ended",
        "`tollgate audit list --target key:ID` says who revoked it. Make a new key, resume the project, or log in again.";
    RetiredUnauthenticated: "retired", NOT_VALID,
        "the key was rotated and its grace is over",
        "Use the key that the rotation made.";
    RetiredForbidden: "retired", NO_LONGER,
        "the key was rotated and its grace is over",
        "Use the key that the rotation made.";
    Expired: "expired", NOT_VALID,
        "the credential is expired",
        "Make a new key, or have the client renew its token before it ends.";
    PermissionMissing: "permission_missing",
        Answer { challenge: Challenge::InsufficientScope, details: Details::RequiredPermissions,
            ..forbidden("The credential lacks a permission.") },
        "the caller lacks a permission that the route requires",
        "Give the caller what the answer lists under `all_of` or `any_of`.";
    ProjectOutOfScope: "project_out_of_scope", OUT_OF_SCOPE,
        "the request is for another project than the caller's",
        "Use a credential of that project.";
    WorkloadOutOfScope: "workload_out_of_scope", OUT_OF_SCOPE,
        "the request is for a workload that the caller does not reach",
        "Use a credential that reaches the workload, or widen this one's `workloads`.";
    ResourceOutOfScope: "resource_out_of_scope", OUT_OF_SCOPE,
        "the resource is not registered, or not where the caller reaches",
        "`tollgate resources show` says whether it is registered, and where. The client cannot tell which.";
    HeadersTooLarge: "headers_too_large",
        Answer { status: 431, ..invalid("The request has too many headers, or too large ones: send fewer.") },
        "the headers of the request, with the identity headers added, exceed what Envoy carries",
        "Send fewer: at most 100 headers and 60 KiB, or less where `envoy` in the configuration says so.";
    HeadersWithheld: "headers_withheld",
        unavailable("The request cannot be authorized: the gateway withholds its headers."),
        "Envoy keeps request headers from the check",
        "Take out `allowed_headers` (Envoy Gateway: `headersToExtAuth`); the log names the setting.";
    Unavailable: "unavailable", unavailable("The request could not be authorized now: try again."),
        "the store or the issuer gave no answer",
        "`/ready` says whether it is the store or the lease, the log whether it is an issuer's key set; `tollgate_store_loads_refused` counts look-ups beyond the bound. Otherwise the record kept changing while the request was decided: try again.";
    Internal: "internal",
        Answer { status: 500, code: "INTERNAL_ERROR", ..unavailable("The request could not be authorized: this is our fault.") },
        "the record is damaged",
        "Look for the error in the log, and report it.";
}

impl Denial {
    /// The word for metrics, logs and `explain`.
    pub const fn as_str(self) -> &'static str {
        self.row().word
    }

    /// What the client is told.
    pub const fn answer(self) -> Answer {
        self.row().answer
    }

    /// What happened, for an operator.
    pub const fn why(self) -> &'static str {
        self.row().why
    }

    /// What to do about it, for an operator.
    pub const fn help(self) -> &'static str {
        self.row().help
    }
}

/// To whoever sends one of our keys in a path or a query.
const KEY_IN_URL: &str = "A key stands in the URL, which proxies and logs keep: send it in a header, and rotate it, as it may have been seen.";

/// Every 401 after a look-up, so that nobody learns which keys exist.
const NOT_VALID: Answer = unauthenticated("The credential is not valid.");
const NO_LONGER: Answer = forbidden("The credential has been revoked.");
const OUT_OF_SCOPE: Answer =
    Answer { challenge: Challenge::InsufficientScope, ..forbidden("The credential does not reach this resource.") };

const fn invalid(message: &'static str) -> Answer {
    Answer { status: 400, code: "VALIDATION_ERROR", message, challenge: Challenge::None, details: Details::None }
}

const fn unauthenticated(message: &'static str) -> Answer {
    let (code, challenge) = ("AUTHENTICATION_FAILED", Challenge::InvalidToken);
    Answer { status: 401, code, message, challenge, details: Details::None }
}

const fn forbidden(message: &'static str) -> Answer {
    Answer { status: 403, code: "PERMISSION_DENIED", message, challenge: Challenge::None, details: Details::None }
}

const fn unavailable(message: &'static str) -> Answer {
    Answer { status: 503, code: "UNAVAILABLE", message, challenge: Challenge::None, details: Details::None }
}
