//! A changed configuration file to a new policy. Watches folders, not files, since editors rename and ConfigMaps swap
//! symlinks; a file with a problem changes nothing.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use notify::event::EventKind;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tollgate_core::policy::Policy;

use super::{Compiled, Log, Problems, Settings};
use crate::registry::Limits;
use crate::tasks::Task;

/// The folder must be quiet for so long before the file is read, as an editor may write it in several steps.
const QUIET: Duration = Duration::from_millis(100);
/// A folder that is never quiet does not put off a reload for longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a changed file brings.
#[derive(Debug)]
pub struct Reloaded {
    pub policy: Policy,
    pub log: Log,
    pub limits: Limits,
    /// The parts of the file that changed and take effect at the next start, by their path in the file.
    pub needs_restart: Vec<&'static str>,
}

/// Reads the file again.
///
/// # Errors
/// Every problem of the file; the caller then keeps what it has.
pub fn reload(path: &Path, current: &Settings) -> Result<Reloaded, Problems> {
    let Compiled { policy, settings } = super::load(path)?;
    Ok(Reloaded { policy, needs_restart: changed(current, &settings), log: settings.log, limits: settings.limits })
}

fn changed(old: &Settings, new: &Settings) -> Vec<&'static str> {
    // Taken apart, so that a new setting does not compile until somebody has said what a change of it means.
    let Settings {
        store,
        demands_signatures,
        pepper,
        check,
        admin,
        ops,
        reflection,
        cache,
        log: _,
        limits: _,
        drain,
        workers,
    } = old;
    let super::Admin { unix, http, through_envoy, demands_proof, allowed_hosts, key_defaults } = admin;
    let parts = [
        ("store", *store != new.store || *demands_signatures != new.demands_signatures),
        ("pepper", *pepper != new.pepper),
        ("listen.check", *check != new.check),
        ("listen.admin.unix", *unix != new.admin.unix),
        ("listen.admin.http", *http != new.admin.http),
        ("listen.admin.through_envoy", *through_envoy != new.admin.through_envoy),
        ("listen.admin.demand_proof", *demands_proof != new.admin.demands_proof),
        ("listen.admin.allowed_hosts", *allowed_hosts != new.admin.allowed_hosts),
        ("listen.ops", *ops != new.ops),
        ("listen.reflection", *reflection != new.reflection),
        ("cache", *cache != new.cache),
        ("admin.key_defaults", *key_defaults != new.admin.key_defaults),
        ("drain", *drain != new.drain),
        ("workers", *workers != new.workers),
    ];
    parts.into_iter().filter_map(|(part, changed)| changed.then_some(part)).collect()
}

/// Keeps watching as long as it lives.
#[derive(Debug)]
pub struct Watch {
    signals: Sender<Signal>,
}

enum Signal {
    Event,
    Ended,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.signals.send(Signal::Ended);
    }
}

/// Calls `on_change` from a thread of its own, once for each time that the file has become another. Calls never overlap. After a
/// panic of one, which `task` counts, the file is looked at again.
///
/// Begin to watch before the file is read for the first time, so that no change falls in between.
///
/// # Errors
/// The file's folder cannot be watched.
pub fn watch(path: &Path, task: Task, on_change: impl FnMut() + Send + 'static) -> Result<Watch, notify::Error> {
    let (signals, inbox) = channel();
    let events = signals.clone();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is an event too, and must not lead to reading it again. An error may hide a change.
        if event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_))) {
            let _ = events.send(Signal::Event);
        }
    })?;
    let mut follower = Follower { path: path.to_owned(), watcher, folders: Vec::new(), seen: None };
    follower.watch_folders()?;
    follower.seen = fingerprint(path);
    std::thread::Builder::new()
        .name("config-watch".to_owned())
        .spawn(move || {
            let (mut on_change, mut is_again) = (on_change, false);
            task.keep_blocking(|| {
                if std::mem::replace(&mut is_again, true) {
                    follower.look(&mut on_change);
                }
                follower.run(&inbox, &mut on_change);
            });
        })
        .map_err(notify::Error::io)?;
    Ok(Watch { signals })
}

struct Follower {
    path: PathBuf,
    watcher: RecommendedWatcher,
    /// The folder of the file, and of the file that it links to.
    folders: Vec<PathBuf>,
    /// What the file was like when it was last looked at.
    seen: Option<u64>,
}

impl Follower {
    fn run(&mut self, inbox: &Receiver<Signal>, on_change: &mut impl FnMut()) {
        while let Ok(Signal::Event) = inbox.recv() {
            if !settle(inbox) {
                return;
            }
            self.look(on_change);
        }
    }

    fn look(&mut self, on_change: &mut impl FnMut()) {
        // A link may lead to another folder now. That it cannot be watched is no reason not to read the file.
        let _ = self.watch_folders();
        let now = fingerprint(&self.path);
        // A file that is gone is one on its way: what replaces it is another event.
        if now.is_some() && now != self.seen {
            on_change();
        }
        self.seen = now.or(self.seen);
    }

    fn watch_folders(&mut self) -> Result<(), notify::Error> {
        let own = folder_of(&self.path);
        let target = std::fs::canonicalize(&self.path).ok().map(|target| folder_of(&target));
        let wanted: Vec<PathBuf> = [Some(own), target].into_iter().flatten().collect();
        for left in self.folders.iter().filter(|folder| !wanted.contains(folder)) {
            // It may be gone.
            let _ = self.watcher.unwatch(left);
        }
        self.folders.retain(|folder| wanted.contains(folder));
        for folder in wanted {
            if !self.folders.contains(&folder) {
                self.watcher.watch(&folder, RecursiveMode::NonRecursive)?;
                self.folders.push(folder);
            }
        }
        Ok(())
    }
}

/// Waits until the folder is quiet; false: the watch has ended.
fn settle(inbox: &Receiver<Signal>) -> bool {
    let latest = Instant::now() + PATIENCE;
    while Instant::now() < latest {
        match inbox.recv_timeout(QUIET) {
            Ok(Signal::Event) => {}
            Ok(Signal::Ended) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    true
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The file's content as a number, or that it has too much or unreadable content; `None` if it cannot be read now.
fn fingerprint(path: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    match super::read(path) {
        Ok(text) => text.hash(&mut hasher),
        Err(_) if path.exists() => path.hash(&mut hasher),
        Err(_) => return None,
    }
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::tasks::Tasks;

    fn text(realm: &str, workers: usize) -> String {
        let listen = "{check: {unix: {path: c}}, admin: {unix: {path: a}}, ops: {http: 127.0.0.1:0}}";
        format!(
            "version: 1\nstore: {{embedded: {{path: s}}}}\npepper: {{current: 1, keys: {{1: {{file: p}}}}}}\n\
             listen: {listen}\nrealm: {realm}\nworkers: {workers}\nhosts: []\n"
        )
    }

    fn settings(text: &str) -> Settings {
        super::super::parse(text).unwrap().settings
    }

    /// Waits for a condition, which is what the test is about.
    fn until(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Follows a file as the process does: the realm in force, and how often it was read.
    struct Follow {
        realm: Arc<std::sync::Mutex<String>>,
        reads: Arc<AtomicUsize>,
        _watch: Watch,
    }

    fn follow(path: &Path) -> Follow {
        let (realm, reads) = (Arc::new(std::sync::Mutex::new(String::new())), Arc::new(AtomicUsize::new(0)));
        let (held, counted, file) = (Arc::clone(&realm), Arc::clone(&reads), path.to_owned());
        let current = settings(&text("x", 1));
        let watch = watch(path, Tasks::default().task("config_watch"), move || {
            if let Ok(reloaded) = reload(&file, &current) {
                *held.lock().unwrap() = reloaded.policy.realm.to_string();
            }
            counted.fetch_add(1, Ordering::SeqCst);
        });
        Follow { realm, reads, _watch: watch.unwrap() }
    }

    impl Follow {
        fn until_realm(&self, realm: &str) {
            until(realm, || *self.realm.lock().unwrap() == realm);
        }

        fn reads(&self) -> usize {
            self.reads.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn a_file_that_is_written_in_place_or_renamed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollgate.yaml");
        fs::write(&path, text("first", 1)).unwrap();
        let follow = follow(&path);
        fs::write(&path, text("second", 1)).unwrap();
        follow.until_realm("second");
        let other = folder.path().join(".tollgate.yaml.swp");
        fs::write(&other, text("third", 1)).unwrap();
        fs::rename(&other, &path).unwrap();
        follow.until_realm("third");
        fs::remove_file(&path).unwrap();
        fs::write(&path, text("fourth", 1)).unwrap();
        follow.until_realm("fourth");
    }

    #[test]
    fn a_config_map_that_swaps_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let version = |name: &str, realm: &str| {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("tollgate.yaml"), text(realm, 1)).unwrap();
        };
        let swap = |name: &str| {
            symlink(name, folder.path().join("..data_tmp")).unwrap();
            fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
        };
        version("..1", "one");
        swap("..1");
        let path = folder.path().join("tollgate.yaml");
        symlink("..data/tollgate.yaml", &path).unwrap();
        let follow = follow(&path);
        for (old, name, realm) in [("..1", "..2", "two"), ("..2", "..3", "three"), ("..3", "..4", "four")] {
            version(name, realm);
            swap(name);
            fs::remove_dir_all(folder.path().join(old)).unwrap();
            follow.until_realm(realm);
        }
    }

    #[test]
    fn a_link_to_a_file_elsewhere() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (path, target) = (folder.path().join("tollgate.yaml"), elsewhere.path().join("real.yaml"));
        fs::write(&target, text("first", 1)).unwrap();
        symlink(&target, &path).unwrap();
        let follow = follow(&path);
        fs::write(&target, text("second", 1)).unwrap();
        follow.until_realm("second");
    }

    #[test]
    fn a_bad_file_changes_nothing_and_a_good_one_after_it_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollgate.yaml");
        fs::write(&path, text("first", 1)).unwrap();
        let follow = follow(&path);
        fs::write(&path, text("second", 1)).unwrap();
        follow.until_realm("second");
        let before = follow.reads();
        fs::write(&path, "version: 2").unwrap();
        until("the bad file is read", || follow.reads() > before);
        assert_eq!(*follow.realm.lock().unwrap(), "second");
        fs::write(&path, text("third", 1)).unwrap();
        follow.until_realm("third");
    }

    #[test]
    fn what_is_not_the_file_or_not_another_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollgate.yaml");
        fs::write(&path, text("first", 1)).unwrap();
        let replace = |realm: &str| {
            let other = folder.path().join("other");
            fs::write(&other, text(realm, 1)).unwrap();
            fs::rename(&other, &path).unwrap();
        };
        let follow = follow(&path);
        replace("first");
        fs::write(folder.path().join("beside"), "x").unwrap();
        replace("second");
        follow.until_realm("second");
        assert_eq!(follow.reads(), 1);
    }

    #[test]
    fn a_change_whose_follower_panics_is_followed_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollgate.yaml");
        fs::write(&path, text("first", 1)).unwrap();
        let (tasks, calls) = (Tasks::default(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&calls);
        let _watch = watch(&path, tasks.task("config_watch"), move || {
            assert!(counted.fetch_add(1, Ordering::SeqCst) > 0, "the first one panics");
        });
        fs::write(&path, text("second", 1)).unwrap();
        until("it is followed again", || calls.load(Ordering::SeqCst) == 2);
        fs::write(&path, text("third", 1)).unwrap();
        until("the next one is followed", || calls.load(Ordering::SeqCst) == 3);
        assert_eq!((tasks.restarts(), tasks.down()), (vec![("config_watch", 1)], vec![]));
    }

    #[test]
    fn settings_that_need_a_restart_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollgate.yaml");
        fs::write(&path, text("new", 3).replace("127.0.0.1:0", "127.0.0.1:9") + "cache: {loads: 5}\n").unwrap();
        let reloaded = reload(&path, &settings(&text("old", 1))).unwrap();
        assert_eq!(reloaded.needs_restart, ["listen.ops", "cache", "workers"]);
        assert_eq!(&*reloaded.policy.realm, "new");
        let unchanged = reload(&path, &super::super::load(&path).unwrap().settings).unwrap();
        assert!(unchanged.needs_restart.is_empty());
    }

    #[test]
    fn a_folder_that_is_not_there() {
        let task = Tasks::default().task("config_watch");
        assert!(watch(Path::new("/nonexistent/tollgate.yaml"), task, || {}).is_err());
    }
}
