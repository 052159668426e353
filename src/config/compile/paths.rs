//! What a path of the configuration must be. Never looks whether it is there.

use super::super::problems::{Findings, Path};

/// `sun_path` of Linux holds 108 bytes with the zero that ends it.
pub(super) const MAX_SOCKET_PATH: usize = 107;

pub(super) fn path_given(given: &std::path::Path, path: &Path, findings: &mut Findings) {
    if given.as_os_str().is_empty() {
        findings.add(path, "must not be empty");
    }
}
