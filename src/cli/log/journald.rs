//! Lines for journald by its native protocol (systemd's "Native Journal Protocol"), so that each field of a line can be
//! searched for: `journalctl -u plimsoll PLIMSOLL_SERVICE=web`. A datagram a line.
//!
//! The crate tracing-journald sends from the thread that logs, and so would hang with a journald that hangs; here
//! the thread behind [`super::queue`] sends.

use std::env;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::priority;

const SOCKET: &str = "/run/systemd/journal/socket";
/// Bytes of one value: a datagram has its limits, a fault's text has none.
const LONGEST: usize = 16 << 10;

/// Where datagrams go. Journald may be started anew meanwhile, so each looks for it by its path.
pub(super) struct Socket {
    from: UnixDatagram,
    to: PathBuf,
}

impl Socket {
    /// `None`: our standard error is not journald's, as JOURNAL_STREAM says (systemd.exec(5)), or it cannot be had.
    pub(super) fn of_stderr() -> Option<Socket> {
        let stream = env::var("JOURNAL_STREAM").ok()?;
        is(&stream, &io::stderr()).then_some(())?;
        Socket::to(SOCKET.into()).ok()
    }

    fn to(path: PathBuf) -> io::Result<Socket> {
        let socket = Socket {
            from: UnixDatagram::unbound()?,
            to: path,
        };
        // Empty datagrams are ignored; it shows that somebody is there.
        socket.from.send_to(&[], &socket.to)?;
        Ok(socket)
    }
}

/// `stream`: device and inode as `8:1234`.
fn is(stream: &str, file: &impl AsFd) -> bool {
    let found = file
        .as_fd()
        .try_clone_to_owned()
        .and_then(|fd| File::from(fd).metadata());
    found.is_ok_and(|found| stream == format!("{}:{}", found.st_dev(), found.st_ino()))
}

impl Write for Socket {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.from.send_to(datagram, &self.to)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A text as a datagram.
pub(super) fn plain(priority: u8, text: &str) -> String {
    let mut datagram = String::new();
    field(&mut datagram, "MESSAGE", text);
    rest(&mut datagram, priority);
    datagram
}

fn rest(datagram: &mut String, priority: u8) {
    field(datagram, "PRIORITY", &priority.to_string());
    field(datagram, "SYSLOG_IDENTIFIER", "plimsoll");
}

/// One value on one line; a line feed in it would begin another field.
fn field(datagram: &mut String, name: &str, value: &str) {
    let value = &value[..value.floor_char_boundary(LONGEST)];
    let value = value.replace('\n', " ");
    // Writing to a String cannot fail.
    let _ = writeln!(datagram, "{name}={value}");
}

/// Makes a datagram of a line.
pub(super) struct Native(pub(super) Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Native
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        let mut datagram = plain(priority(event.metadata().level()), line.trim_end());
        event.record(&mut Fields(&mut datagram));
        writer.write_str(&datagram)
    }
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, of: &Field, value: &dyn fmt::Debug) {
        self.record_str(of, &format!("{value:?}"));
    }

    fn record_str(&mut self, of: &Field, value: &str) {
        let name = match of.name() {
            "message" => "EVENT".to_owned(),
            name => name.to_uppercase(),
        };
        field(self.0, &format!("PLIMSOLL_{name}"), value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{info, warn};
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<String>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            self.0.lock().unwrap().push(text);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Written;

        fn make_writer(&'a self) -> Written {
            self.clone()
        }
    }

    #[test]
    fn a_datagram_a_line_with_its_fields() {
        let written = Written::default();
        let format = Format::default().without_time();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Native(format.with_target(false).with_level(false)))
            .with_writer(written.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            info!(service = %"web", left = 3, why = "two\nlines", "depooled");
            warn!("{}", "é".repeat(LONGEST));
        });
        let written = written.0.lock().unwrap();
        assert_eq!(
            written[0],
            "MESSAGE=depooled service=web left=3 why=\"two\\nlines\"\nPRIORITY=6\n\
             SYSLOG_IDENTIFIER=plimsoll\nPLIMSOLL_EVENT=depooled\nPLIMSOLL_SERVICE=web\n\
             PLIMSOLL_LEFT=3\nPLIMSOLL_WHY=two lines\n"
        );
        assert!(written[1].len() < 3 * LONGEST, "one datagram holds it");
        assert_eq!(written.len(), 2);
    }

    #[test]
    fn what_has_no_reader_is_no_socket_and_one_that_came_back_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(Socket::to(path.clone()).is_err());
        let first = UnixDatagram::bind(&path).unwrap();
        let mut socket = Socket::to(path.clone()).unwrap();
        drop(first);
        std::fs::remove_file(&path).unwrap();
        socket.write_all(b"lost").unwrap_err();
        let second = UnixDatagram::bind(&path).unwrap();
        socket.write_all(b"MESSAGE=x\n").unwrap();
        let mut buffer = [0; 100];
        let length = second.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"MESSAGE=x\n");
    }

    #[test]
    fn whose_standard_error_it_is() {
        let file = tempfile::tempfile().unwrap();
        let found = file.metadata().unwrap();
        let stream = format!("{}:{}", found.st_dev(), found.st_ino());
        assert!(is(&stream, &file));
        assert!(!is(&stream, &tempfile::tempfile().unwrap()));
        assert!(!is("", &file));
    }
}
