//! Child processes: pinned to a core, waited for, accounted, and ended by their own id. Never touches a process that it
//! did not start.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Outcome;

/// Where servers that are measured run; in the Envoy table that is Envoy.
pub const SERVER_CORE: usize = 0;
/// Where the load runs.
pub const LOAD_CORE: usize = 1;

/// A command that runs on one core.
pub fn pinned(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program);
    command
}

/// Runs a command to its end and gives what it printed.
pub fn output_of(command: &mut Command) -> Outcome<String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A server that was started here. Killed when dropped.
pub struct Server {
    name: &'static str,
    child: Child,
}

impl Server {
    /// Starts it on a core; what it prints goes to `log`.
    pub fn start(name: &'static str, mut command: Command, log: &Path) -> Outcome<Self> {
        let log = File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        Ok(Self { name, child })
    }

    /// Waits until `ready` says so, and gives how long that took from this call.
    pub fn wait_for(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Outcome<Duration> {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended before it was ready: {status}", self.name).into());
            }
            if start.elapsed() > limit {
                return Err(format!("{} was not ready after {limit:?}", self.name).into());
            }
            sleep(Duration::from_millis(1));
        }
        Ok(start.elapsed())
    }

    /// Nanoseconds that all threads of the process have run for, in user mode and in the kernel.
    pub fn cpu(&self) -> Outcome<Cpu> {
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let entry = entry?;
            // A thread that ends meanwhile is seen as such by `Cpu::since`.
            let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
            let run = text.split_whitespace().next().ok_or("an empty schedstat")?.parse()?;
            threads.push((entry.file_name().to_string_lossy().parse()?, run));
        }
        Ok(Cpu { threads, ticks: self.ticks()? })
    }

    /// User and system time of the process in 1/100 s, with that of threads that have ended.
    fn ticks(&self) -> Outcome<u64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = text.rsplit_once(") ").ok_or("an odd stat file")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        // proc_pid_stat(5): utime is field 14 and stime 15; the state, field 3, is the first here.
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    }

    /// Resident bytes that are the process's own, without mapped files.
    pub fn resident(&self) -> Outcome<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Asks it to end, and waits.
    pub fn stop(mut self, signal: Signal) -> Outcome<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or("an odd process id")?;
        kill_process(pid, signal)?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > Duration::from_secs(30) {
                return Err(format!("{} did not end within 30 s", self.name).into());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used of the processor, at one moment.
pub struct Cpu {
    /// Thread id and nanoseconds.
    threads: Vec<(u32, u64)>,
    ticks: u64,
}

impl Cpu {
    /// Microseconds since `before`. Exact if no thread has ended in between, else in steps of 10 ms.
    pub fn since(&self, before: &Self) -> f64 {
        let of = |id: u32| self.threads.iter().find(|(thread, _)| *thread == id);
        if before.threads.iter().any(|(id, _)| of(*id).is_none()) {
            return self.ticks.saturating_sub(before.ticks) as f64 * 10_000.0;
        }
        let sum = |cpu: &Self| cpu.threads.iter().map(|(_, run)| run).sum::<u64>();
        sum(self).saturating_sub(sum(before)) as f64 / 1_000.0
    }
}

/// A loopback address that was free a moment ago, and is not one of the last ones that were given: their servers may not listen yet.
pub fn free_address() -> Outcome<SocketAddr> {
    const REMEMBERED: usize = 64;
    static GIVEN: Mutex<VecDeque<SocketAddr>> = Mutex::new(VecDeque::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        if !given.contains(&address) {
            given.push_back(address);
            if given.len() > REMEMBERED {
                given.pop_front();
            }
            return Ok(address);
        }
    }
}

/// Whether somebody listens there: `ADDRESS:PORT` or `unix:PATH`.
pub fn is_open(address: &str) -> bool {
    match address.strip_prefix("unix:") {
        Some(path) => UnixStream::connect(path).is_ok(),
        None => TcpStream::connect(address).is_ok(),
    }
}

/// The status of a plain HTTP GET with these headers, on a connection of its own.
pub fn ask(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Outcome<u16> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n")?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split(' ').nth(1).ok_or("no status")?.parse()?)
}

/// The body of a plain HTTP GET that was answered with 200.
pub fn get(address: SocketAddr, path: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("an HTTP answer without an end of its head")?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("{path}: {}", head.lines().next().unwrap_or_default()).into());
    }
    Ok(body.to_owned())
}
