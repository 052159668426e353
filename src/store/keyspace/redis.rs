//! The names of everything in Redis. Never names a record outside the one hash slot of `{tg}`, so that one script can read
//! and write several records; what may spread over a Cluster has names of its own.
//!
//! Names from outside stand at the end only, or behind a NUL that no name holds, so that none can pass for another.

use data_encoding::HEXLOWER;
use tollgate_core::credential::KeyId;
use tollgate_guard::digest::Digest;

/// Hash: `format`, `id` (the lineage), `seq` and `h` of the newest change; since the third format also `was` (former lineages).
pub const HEAD: &str = "tg:{tg}:head";
/// Stream of the changes: ids `<sequence>-0`, fields `h` and `p` (the event).
pub const LOG: &str = "tg:{tg}:log";
/// Hash of the replicas: id to what it says of itself, as JSON.
pub const MEMBERS: &str = "tg:{tg}:members";
/// Stream of one entry, whose id is the server's time.
pub const CLOCK: &str = "tg:{tg}:clock";
/// Which store it was filled from, if it was filled by a migration.
pub const MIGRATION: &str = "tg:{tg}:migration";
/// What an upgrade that is under way has done, with a signature.
pub const UPGRADE: &str = "tg:{tg}:upgrade";
/// Stream of the audit log: ids `<number>-0`, field `p` (the row). The newest one is never removed.
pub const AUDIT: &str = "tg:{tg}:audit";
/// What is noted of the rows that were removed from there.
pub const REMOVED_ROWS: &str = "tg:{tg}:removed_rows";

/// Hexadecimal digest to project, NUL, its record.
pub const KEYS: &str = "tg:{tg}:k:";
/// Id of a key to its digest.
pub const KEY_IDS: &str = "tg:{tg}:i:";
/// Name to project, NUL, its record, also of deleted ones.
pub const USERS: &str = "tg:{tg}:u:";
/// Name to its record.
pub const PROJECTS: &str = "tg:{tg}:p:";
/// Id of a session to its record.
pub const ENDED_SESSIONS: &str = "tg:{tg}:s:";
/// Name of a user to its record. Since the third format.
pub const SESSIONS: &str = "tg:{tg}:sessions:";
/// Kind, NUL, id to its record.
pub const RESOURCES: &str = "tg:{tg}:r:";
/// Id to its record.
pub const SIGNING_KEYS: &str = "tg:{tg}:signing:";
/// Version of a pepper to its check value.
pub const PEPPERS: &str = "tg:{tg}:pepper:";
/// Hexadecimal digest of an idempotency key to its record.
pub const ONCE: &str = "tg:{tg}:once:";

/// Sorted sets in which every score is 0, so that they are in the order of their members.
pub const KEY_LIST: &str = "tg:{tg}:list:keys";
pub const USER_LIST: &str = "tg:{tg}:list:users";
pub const PROJECT_LIST: &str = "tg:{tg}:list:projects";
pub const RESOURCE_LIST: &str = "tg:{tg}:list:resources";
pub const SIGNING_KEY_LIST: &str = "tg:{tg}:list:signing";
pub const PEPPER_LIST: &str = "tg:{tg}:list:peppers";

pub fn key(digest: &Digest) -> String {
    format!("{KEYS}{}", HEXLOWER.encode(&digest.0))
}

pub fn key_id(id: &KeyId) -> String {
    format!("{KEY_IDS}{id}")
}

pub fn user(name: &str) -> String {
    format!("{USERS}{name}")
}

pub fn project(name: &str) -> String {
    format!("{PROJECTS}{name}")
}

pub fn ended_session(id: &str) -> String {
    format!("{ENDED_SESSIONS}{id}")
}

pub fn resource(kind: &str, id: &str) -> String {
    format!("{RESOURCES}{kind}\0{id}")
}

pub fn pepper(version: u32) -> String {
    format!("{PEPPERS}{version}")
}

pub fn keys_of_project(project: &str) -> String {
    format!("{KEY_LIST}:project:{project}")
}

pub fn keys_of_plane(plane: &str) -> String {
    format!("{KEY_LIST}:plane:{plane}")
}

pub fn keys_of_both(project: &str, plane: &str) -> String {
    format!("{KEY_LIST}:both:{project}\0{plane}")
}

pub fn users_of_project(project: &str) -> String {
    format!("{USER_LIST}:project:{project}")
}

/// Those that have a project in their name, and this behind it; since the third format.
pub fn users_of_plain_name(plain: &str) -> String {
    format!("{USER_LIST}:plain:{plain}")
}

/// Those that are deleted, from the third format on.
pub fn deleted_users_of_project(project: &str) -> String {
    format!("{USER_LIST}:deleted:{project}")
}

pub fn resources_of_project(project: &str) -> String {
    format!("{RESOURCE_LIST}:project:{project}")
}

/// A sorted set of numbers of rows, each its own score.
pub fn audit_of_project(project: &str) -> String {
    format!("{AUDIT}:project:{project}")
}

/// As [`audit_of_project`], of an actor. Since the third format.
pub fn audit_of_actor(actor: &str) -> String {
    format!("{AUDIT}:actor:{actor}")
}

/// As [`audit_of_actor`], in a project.
pub fn audit_of_actor_in(actor: &str, project: &str) -> String {
    format!("{AUDIT}:actor:{actor}\0{project}")
}

/// Hash of ids of keys to the milliseconds since the Unix epoch of their last use: in one of many slots, apart from records.
pub fn last_used(id: &KeyId) -> String {
    let bucket: String = id.as_str().chars().take(2).collect();
    format!("tg:use:{{{bucket}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_in_one_slot() {
        let names = [
            key(&Digest([7; 32])),
            user("ann}{x"),
            project("acme"),
            resource("workload", "w-1"),
            keys_of_both("acme", "data"),
            audit_of_project("acme"),
        ];
        for name in names {
            assert!(name.starts_with("tg:{tg}:"), "{name}");
        }
        let id = KeyId::parse("abcdefABCDEF").unwrap();
        assert_eq!(key_id(&id), "tg:{tg}:i:abcdefABCDEF");
        assert_eq!(last_used(&id), "tg:use:{ab}");
    }
}
