//! `tollgate backup` and `tollgate restore` from outside: a server that goes on meanwhile, a file without one, a fleet; sealed; and
//! refused with what to do, with nothing half in.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use age::secrecy::ExposeSecret;
use tollgate::clock::Clock;
use tollgate::resolve::pepper::Pepper;
use tollgate::store::format::Format;
use tollgate::store::snapshot::{Header, SnapshotWriter};
use tollgate_guard::time::Timestamp;
use zeroize::Zeroizing;

use super::server::{House, Server, in_redis, write_secret};
use super::signed::PEPPER;
use super::{Done, migrate, run, run_with, servers, tollgate};

const EMBEDDED: &str = "{embedded: {path: FOLDER/store.redb}}";
const KEY: [&str; 12] = [
    "keys",
    "create",
    "--name",
    "chat",
    "--plane",
    "data",
    "--project",
    "acme",
    "--workloads",
    "*",
    "--permissions",
    "run_inference",
];

/// A server with an administrator, two keys of which one is revoked, and a user.
fn with_content() -> (Server, String) {
    let server = Server::start();
    let on = |arguments: &[&str]| run(&[arguments, &["--socket", &server.socket()]].concat()).ends(0);
    let admin = on(&["keys", "bootstrap", "-q"]).out.trim().to_owned();
    on(&KEY);
    let id = on(&[&KEY[..], &["-o", "json"]].concat()).json()["id"].as_str().unwrap().to_owned();
    on(&["keys", "revoke", &id]);
    let mut command = tollgate();
    let user = ["users", "create", "ann", "--project", "acme", "--permissions", "run_inference", "--password-stdin"];
    command.args(user).args(["--socket", &server.socket()]);
    run_with(&mut command, "correct horse battery\n").ends(0);
    (server, admin)
}

fn backup(config: &str, file: &Path, how: &[&str]) -> Done {
    run(&[&["backup", file.to_str().unwrap(), "--config", config], how].concat())
}

/// A house without a store, with this server's pepper.
fn empty_house(of: &Path) -> House {
    let house = House::with(EMBEDDED);
    write_secret(&house.folder.path().join("pepper.1"), &fs::read_to_string(of.join("pepper.1")).unwrap());
    house
}

fn restore(house: &House, file: &Path, how: &[&str]) -> Done {
    run(&[&["restore", file.to_str().unwrap(), "--config", house.config.to_str().unwrap()], how].concat())
}

fn store_of(house: &House) -> PathBuf {
    house.folder.path().join("store.redb")
}

/// A server on what a house has.
fn serve(house: &House) -> Server {
    let pepper = fs::read_to_string(house.folder.path().join("pepper.1")).unwrap();
    Server::start_on(&format!("{{embedded: {{path: '{}'}}}}", store_of(house).display()), &pepper)
}

fn listed(server: &Server) -> Vec<String> {
    ["keys list", "users list", "projects list", "audit list"]
        .map(|list| {
            let arguments: Vec<&str> = list.split(' ').chain(["-o", "json", "--socket"]).collect();
            run(&[&arguments[..], &[&server.socket()]].concat()).ends(0).out
        })
        .to_vec()
}

#[test]
fn a_backup_of_a_running_server_is_put_back_and_means_the_same() {
    let (mut server, admin) = with_content();
    let file = server.folder().join("backup");
    let made = backup(&server.config(), &file, &["-o", "json"]).ends(0).json();
    assert!(made["records"].as_u64().unwrap() > 10 && made["sequence"].as_u64().unwrap() > 5, "{made}");
    assert_eq!(made["bytes"].as_u64().unwrap(), fs::metadata(&file).unwrap().len());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = backup(&server.config(), &file, &[]).ends(2).err;
    assert!(again.contains("is there already, and nothing is overwritten"), "{again}");
    let before = listed(&server);
    // That one was made is the newest row.
    assert!(before[3].contains("store.backup"), "{}", before[3]);
    let pepper = fs::read_to_string(server.folder().join("pepper.1")).unwrap();
    for secret in [&*admin, pepper.trim(), "correct horse"] {
        assert!(!fs::read(&file).unwrap().windows(secret.len()).any(|window| window == secret.as_bytes()));
    }

    let house = empty_house(server.folder());
    server.stop();
    let table = restore(&house, &file, &[]).ends(0).out;
    assert!(table.contains("audit rows") && table.contains("Backup of"), "{table}");
    let used = restore(&house, &file, &[]).ends(1).err;
    assert!(used.contains("was filled with this backup before"), "{used}");
    let restored = serve(&house);
    let after = listed(&restored);
    assert_eq!(after[..3], before[..3]);
    assert!(after[3].contains("store.restore") && after[3].contains("store.backup"), "{}", after[3]);
    let mut whoami = tollgate();
    whoami.args(["whoami", "--url", &restored.admin_url()]).env("TOLLGATE_ADMIN_KEY", &admin);
    Done::from(whoami.output().unwrap()).ends(0);
}

#[test]
fn without_a_server_the_file_is_read() {
    let (mut server, _) = with_content();
    server.stop();
    let file = server.folder().join("backup");
    let table = backup(&server.config(), &file, &[]).ends(0).out;
    assert!(table.contains("Up to change"), "{table}");
    let house = empty_house(server.folder());
    restore(&house, &file, &["-o", "json"]).ends(0);
    assert_eq!(listed(&serve(&house)).len(), 4);
    // Neither a server nor a store.
    let empty = House::with(EMBEDDED);
    let none = backup(empty.config.to_str().unwrap(), &empty.folder.path().join("b"), &[]).ends(4).err;
    assert!(none.contains("is `tollgate serve` running") && none.contains("there is no store at"), "{none}");
    assert!(!empty.folder.path().join("b").exists());
    assert_eq!(fs::read_dir(empty.folder.path()).unwrap().count(), 1, "the configuration alone");
}

#[test]
fn standard_output_takes_one_too() {
    let (server, _) = with_content();
    let piped = tollgate().args(["backup", "-", "--config", &server.config()]).output().unwrap();
    assert!(piped.status.success());
    let said = String::from_utf8(piped.stderr).unwrap();
    assert!(said.contains("records in"), "{said}");
    let file = server.folder().join("piped");
    fs::write(&file, piped.stdout).unwrap();
    restore(&empty_house(server.folder()), &file, &[]).ends(0);
}

#[test]
fn what_is_not_whole_or_not_ours_is_refused_with_nothing_half_in() {
    let (server, _) = with_content();
    let file = server.folder().join("backup");
    backup(&server.config(), &file, &[]).ends(0);
    let whole = fs::read(&file).unwrap();
    let house = empty_house(server.folder());
    let mut random: u64 = 0x7011_6a7e;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below
    };
    let refused = |bytes: &[u8], why: &str| {
        let damaged = house.folder.path().join("damaged");
        fs::write(&damaged, bytes).unwrap();
        let refused = restore(&house, &damaged, &[]).ends(1).err;
        assert!(refused.contains("damaged: ") && refused.contains(why), "{why}: {refused}");
        assert!(!store_of(&house).exists(), "nothing was made: {refused}");
    };
    for _ in 0..100 {
        let mut bytes = whole.clone();
        bytes[next(whole.len())] ^= 1 << next(8);
        refused(&bytes, "");
    }
    for _ in 0..20 {
        refused(&whole[..next(whole.len() - 30) + 30], "it was cut off");
    }
    refused(&[&*whole, b"more"].concat(), "behind its end");
    refused(&[&whole[..21], &[9], &whole[22..]].concat(), "made by a newer Tollgate");
    refused(b"SQLite format 3", "no backup of Tollgate");

    write_secret(&house.folder.path().join("pepper.1"), PEPPER);
    let other = restore(&house, &file, &[]).ends(1).err;
    assert!(other.contains("is not the one that it was made with"), "{other}");
    fs::remove_file(house.folder.path().join("pepper.1")).unwrap();
    let missing = restore(&house, &file, &[]).ends(1).err;
    assert!(missing.contains("pepper.1") && missing.contains("restore it"), "{missing}");
    assert!(!store_of(&house).exists());
}

/// Signed by whoever holds the pepper, and nothing in it.
fn made_at(at: Timestamp, pepper_version: u32) -> Vec<u8> {
    let mut secret = Zeroizing::new([0; 32]);
    for (byte, pair) in secret.iter_mut().zip(PEPPER.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    let signer = Pepper::new(pepper_version, secret).snapshot_signer();
    let (format, release) = (Format::NEWEST, "0.1.0".to_owned());
    let header = Header { made_at: at, format, pepper: signer.pepper(), release, lineage: None, was: String::new() };
    SnapshotWriter::begin(Vec::new(), &header, &signer).unwrap().end(3, "").unwrap().0
}

#[test]
fn what_is_too_old_or_of_another_pepper_is_refused() {
    let house = House::with(EMBEDDED);
    write_secret(&house.folder.path().join("pepper.1"), PEPPER);
    let file = house.folder.path().join("old");
    let day = std::time::Duration::from_secs(24 * 3600);
    let now = Clock::System.now();
    fs::write(&file, made_at(now.minus(91 * day), 1)).unwrap();
    let old = restore(&house, &file, &[]).ends(1).err;
    assert!(old.contains("none older than 90 days is ever put back") && old.contains("raise `backup.keep`"), "{old}");
    fs::write(&file, made_at(now, 4)).unwrap();
    let unknown = restore(&house, &file, &[]).ends(1).err;
    assert!(unknown.contains("pepper version 4, which has no file here"), "{unknown}");
    assert!(!store_of(&house).exists());

    fs::write(&file, made_at(now.minus(91 * day), 1)).unwrap();
    let text = fs::read_to_string(&house.config).unwrap();
    fs::write(&house.config, format!("{text}backup: {{keep: 100d}}\n")).unwrap();
    restore(&house, &file, &[]).ends(0);
}

#[test]
fn a_sealed_backup_is_opened_by_its_recipient_alone() {
    let (server, _) = with_content();
    let (identity, stranger) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    let [ours, theirs] = [("ours", &identity), ("theirs", &stranger)]
        .map(|(name, identity)| server.file(name, identity.to_string().expose_secret()));
    let file = server.folder().join("sealed");
    backup(&server.config(), &file, &["--recipient", &identity.to_public().to_string()]).ends(0);
    let sealed = fs::read(&file).unwrap();
    assert!(sealed.starts_with(b"age-encryption.org/v1"));
    assert!(!sealed.windows(4).any(|window| window == b"acme"));

    let house = empty_house(server.folder());
    let shut = restore(&house, &file, &[]).ends(1).err;
    assert!(shut.contains("say --identity FILE"), "{shut}");
    let shut = restore(&house, &file, &["--identity", &theirs]).ends(1).err;
    assert!(shut.contains("sealed to another recipient"), "{shut}");
    let shut = restore(&house, &file, &["--identity", &server.config()]).ends(1).err;
    assert!(shut.contains("no age identity"), "{shut}");
    let cut = server.folder().join("cut");
    fs::write(&cut, &sealed[..sealed.len() - 20]).unwrap();
    restore(&house, &cut, &["--identity", &ours]).ends(1);
    assert!(!store_of(&house).exists());
    restore(&house, &file, &["--identity", &ours]).ends(0);
    let bad = backup(&server.config(), &server.folder().join("b"), &["--recipient", "ssh-ed25519 AAAA"]).ends(2).err;
    assert!(bad.contains("is no age recipient"), "{bad}");
}

#[test]
fn a_passphrase_seals_and_opens() {
    let (server, _) = with_content();
    let file = server.folder().join("sealed");
    let (config, path) = (server.config(), file.to_str().unwrap().to_owned());
    let mut make = tollgate();
    make.args(["backup", &path, "--config", &config, "--passphrase-stdin"]);
    run_with(&mut make, "open sesame\n").ends(0);
    let house = empty_house(server.folder());
    let open = |passphrase: &str| {
        let mut open = tollgate();
        open.args(["restore", &path, "--config", house.config.to_str().unwrap(), "--passphrase-stdin"]);
        run_with(&mut open, passphrase)
    };
    let shut = open("open barley\n").ends(1).err;
    assert!(shut.contains("the passphrase is another one"), "{shut}");
    assert!(!store_of(&house).exists());
    open("open sesame\n").ends(0);
    let unasked = restore(&empty_house(server.folder()), &file, &[]).ends(2).err;
    assert!(unasked.contains("there is no terminal to ask on"), "{unasked}");
}

/// A server on a store that is larger than what waits for whoever takes a copy.
fn with_many_keys() -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    migrate::fill_keys(&path);
    (Server::start_on(&format!("{{embedded: {{path: '{}'}}}}", path.display()), PEPPER), folder)
}

/// Asks for a copy, and has read the head of the answer.
fn begun(server: &Server) -> UnixStream {
    let mut taker = UnixStream::connect(server.socket()).unwrap();
    taker.write_all(b"POST /api/v1/backup HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").unwrap();
    let mut first = [0; 12];
    taker.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    taker
}

#[test]
fn one_copy_is_made_at_a_time_and_whoever_takes_nothing_is_cut_off() {
    let (mut server, _store) = with_many_keys();
    let mut idle = begun(&server);
    let file = server.folder().join("backup");
    let busy = backup(&server.config(), &file, &[]).ends(5).err;
    assert!(busy.contains("Another backup is being made"), "{busy}");
    // It gets the turn when nothing was taken for long enough.
    servers::wait_for("the turn", || backup(&server.config(), &file, &[]).code == 0);
    let mut rest = Vec::new();
    let ended = idle.read_to_end(&mut rest);
    assert!(ended.is_err() || !rest.ends_with(b"0\r\n\r\n"), "no whole answer");
    let log = server.stop();
    assert!(log.contains("a backup was not made") && log.contains("a backup was made"), "{log}");
}

#[test]
fn a_server_that_is_told_to_end_does_not_wait_for_a_copy() {
    let (mut server, _store) = with_many_keys();
    let _idle = begun(&server);
    let begun = std::time::Instant::now();
    let log = server.stop();
    assert!(log.contains("a backup was not made"), "{log}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(25), "{:?}", begun.elapsed());
}

#[test]
fn a_server_that_ends_meanwhile_leaves_no_backup() {
    let (mut server, _store) = with_many_keys();
    let file = server.folder().join("backup");
    let mut slow = tollgate();
    slow.args(["backup", "-", "--config", &server.config()]);
    let mut slow = slow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 18];
    slow.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"tollgate snapshot\n");
    server.kill();
    let done = slow.wait_with_output().unwrap();
    assert!(
        !done.status.success() && String::from_utf8(done.stderr).unwrap().contains("did not send the whole backup")
    );
    // Without it the file is read.
    backup(&server.config(), &file, &[]).ends(0);
}

#[test]
fn a_full_disk_ends_a_backup_with_what_is_wrong() {
    let (server, _store) = with_many_keys();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = tollgate();
    command.args(["backup", "-", "--config", &server.config()]).stdout(full);
    let done = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.code() == Some(1) && said.contains("No space left"), "{said}");
}

#[test]
fn two_backups_of_one_name_are_one_and_a_refusal() {
    let (mut server, _store) = with_many_keys();
    server.stop();
    let (config, file) = (server.config(), server.folder().join("backup"));
    // The file of the store has one owner at a time, so the second waits for the name alone.
    let ends: Vec<i32> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2).map(|_| scope.spawn(|| backup(&config, &file, &[]).code)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_eq!(ends.iter().filter(|code| **code == 0).count(), 1, "{ends:?}");
    let house = House::with(EMBEDDED);
    write_secret(&house.folder.path().join("pepper.1"), PEPPER);
    restore(&house, &file, &[]).ends(0);
    let left = fs::read_dir(server.folder())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".unfinished"));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_fleets_store_is_copied_while_it_is_written_to_and_put_back_elsewhere() {
    let (redis, empty) = (servers::Server::start(), servers::Server::start());
    let (house, target) = (House::on(&redis), House::on(&empty));
    for house in [&house, &target] {
        write_secret(&house.folder.path().join("pepper.1"), PEPPER);
    }
    run(&["store", "init", "--config", house.config.to_str().unwrap()]).ends(0);
    let server = Server::start_on(&in_redis(&redis), PEPPER);
    let on = |arguments: &[&str]| run(&[arguments, &["--socket", &server.socket()]].concat());
    on(&["keys", "bootstrap"]).ends(0);
    on(&KEY).ends(0);
    let file = house.folder.path().join("backup");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                on(&KEY).ends(0);
            }
        });
        let made = backup(house.config.to_str().unwrap(), &file, &["-o", "json"]).ends(0).json();
        is_over.store(true, Ordering::SeqCst);
        assert!(made["records"].as_u64().unwrap() > 5, "{made}");
    });
    // The socket of a server on Redis says where to ask.
    let mut asked = UnixStream::connect(server.socket()).unwrap();
    let request = "POST /api/v1/backup HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    asked.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    asked.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 409") && answer.contains("The store is in Redis"), "{answer}");

    restore(&target, &file, &[]).ends(0);
    let lineage = |redis: &servers::Server| redis.command::<String>(&["HGET", "tg:{tg}:head", "id"]);
    assert_eq!(lineage(&redis), lineage(&empty));
    let copied = Server::start_on(&in_redis(&empty), PEPPER);
    let keys = run(&["keys", "list", "-o", "json", "--socket", &copied.socket()]).ends(0).json();
    assert!(keys["keys"].as_array().unwrap().len() >= 2);
    let shut = restore(&house, &file, &[]).ends(1).err;
    assert!(shut.contains("in use by the replica"), "{shut}");

    // With another pepper than the fleet's nobody makes one.
    write_secret(&house.folder.path().join("pepper.1"), &PEPPER.replace('f', "e"));
    let other = backup(house.config.to_str().unwrap(), &house.folder.path().join("other"), &[]).ends(1).err;
    assert!(other.contains("does not know the pepper of version 1"), "{other}");
}
