//! Passwords from a person, without an echo, or from standard input. Never takes one from an argument or the environment, where
//! others could read it, and never prints one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::{Exit, Failure};

/// Longer than any password that the server takes.
const MAX_LINE: usize = 1024;
const INTERRUPT: u8 = 3;

/// A new password: typed twice, or the first line of standard input.
///
/// # Errors
/// If there is no terminal, or the two differ.
pub fn new_password(from_stdin: bool) -> Result<Zeroizing<String>, Failure> {
    new_secret(from_stdin, "New password: ", "the two passwords differ: nothing was changed")
}

fn new_secret(from_stdin: bool, question: &str, differ: &str) -> Result<Zeroizing<String>, Failure> {
    if from_stdin {
        return line_of(&mut io::stdin().lock());
    }
    let first = hidden(question)?;
    let second = hidden("The same again: ")?;
    if *first == *second { Ok(first) } else { Err(Failure::usage(differ)) }
}

/// A passphrase that something is sealed with: typed twice, or the first line of standard input.
///
/// # Errors
/// If there is no terminal, or the two differ.
pub fn new_passphrase(from_stdin: bool) -> Result<Zeroizing<String>, Failure> {
    new_secret(from_stdin, "Passphrase: ", "the two passphrases differ: nothing was made")
}

/// The passphrase that something was sealed with: typed, or the first line of standard input.
///
/// # Errors
/// If there is no terminal.
pub fn passphrase(from_stdin: bool) -> Result<Zeroizing<String>, Failure> {
    if from_stdin { line_of(&mut io::stdin().lock()) } else { hidden("Passphrase: ") }
}

/// A password: typed, or the first line of standard input.
///
/// # Errors
/// If there is no terminal.
pub fn password(from_stdin: bool) -> Result<Zeroizing<String>, Failure> {
    if from_stdin { line_of(&mut io::stdin().lock()) } else { hidden("Password: ") }
}

/// A line that is typed on the terminal, and seen.
///
/// # Errors
/// If there is no terminal.
pub fn visible(question: &str) -> Result<String, Failure> {
    let mut terminal = terminal()?;
    ask(&mut terminal, question)?;
    line_of(&mut terminal).map(|line| line.trim().to_owned())
}

fn hidden(question: &str) -> Result<Zeroizing<String>, Failure> {
    let mut terminal = terminal()?;
    let quiet = EchoOff::begin(&terminal)?;
    ask(&mut terminal, question)?;
    let line = line_of(&mut terminal);
    drop(quiet);
    ask(&mut terminal, "\n")?;
    line
}

fn terminal() -> Result<File, Failure> {
    OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|_| {
        Failure::usage(
            "there is no terminal to ask on: pass it on standard input, with --password-stdin or --passphrase-stdin",
        )
    })
}

fn ask(terminal: &mut File, text: &str) -> Result<(), Failure> {
    terminal.write_all(text.as_bytes()).map_err(|error| failed(&error))
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, format!("nothing could be read: {error}"))
}

/// A terminal without an echo, until this is dropped.
struct EchoOff {
    terminal: File,
    before: Termios,
}

impl EchoOff {
    fn begin(terminal: &File) -> Result<Self, Failure> {
        let before = tcgetattr(terminal).map_err(|error| failed(&error))?;
        let mut quiet = before.clone();
        // Ctrl-C ends the line instead of the process, which would leave the terminal without its echo.
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        quiet.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        // What was typed before the question was seen by others, or meant for something else.
        tcsetattr(terminal, OptionalActions::Flush, &quiet).map_err(|error| failed(&error))?;
        let terminal = terminal.try_clone().map_err(|error| failed(&error))?;
        Ok(Self { terminal, before })
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that went away.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// The first line, without its end; read byte by byte, so that nothing stays in a buffer that is not wiped.
fn line_of(from: &mut impl Read) -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE));
    let mut byte = Zeroizing::new([0u8; 1]);
    loop {
        match from.read(&mut *byte) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(&error)),
        }
        match byte[0] {
            b'\n' => break,
            INTERRUPT => return Err(Failure::new(Exit::Failed, "interrupted: nothing was changed")),
            _ if line.len() == MAX_LINE => return Err(Failure::usage("what was given is longer than 1024 bytes")),
            other => line.push(other),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    let text = std::str::from_utf8(&line).map_err(|_| Failure::usage("what was given is not UTF-8"))?;
    if text.is_empty() { Err(Failure::usage("nothing was given")) } else { Ok(Zeroizing::new(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &[u8]) -> Result<String, Exit> {
        line_of(&mut &*text).map(|line| line.to_string()).map_err(|failure| failure.exit)
    }

    #[test]
    fn the_first_line_is_the_password() {
        for text in ["pass word", "pass word\n", "pass word\r\n", "pass word\nmore\n"] {
            assert_eq!(line(text.as_bytes()), Ok("pass word".to_owned()), "{text:?}");
        }
        assert_eq!(line(b" spaces count "), Ok(" spaces count ".to_owned()));
        for bad in [&b""[..], b"\n", b"\xff\n", &[b'x'; 1025]] {
            assert_eq!(line(bad), Err(Exit::Usage));
        }
        assert_eq!(line(b"half\x03"), Err(Exit::Failed));
    }
}
