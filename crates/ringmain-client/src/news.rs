//! What the broker says beside the rings: that it drains, that it closes the session, or nothing
//! any more.

use std::io;

use ringmain_shm::Control;
use ringmain_wire::control::Message;
use ringmain_wire::limits::CONTROL_BYTES_MAX;
use ringmain_wire::{Code, Stage};

use crate::attach::Attachment;
use crate::error::Error;

/// Why an attachment is of no use any more.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The broker's process or its end of the socket is gone.
    Gone,
    /// The broker closed the session, and said why.
    Closed(Code, String),
}

/// What came over the control socket.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) fault: Option<Fault>,
    pub(crate) draining: bool,
}

/// Control datagrams taken at once.
const DATAGRAMS_PER_TURN: usize = 64;

impl Fault {
    /// The error of an exchange that this ended.
    pub(crate) fn error(&self, attachment: &Attachment, latest_epoch: u64) -> Error {
        let restarted = latest_epoch != attachment.welcome.epoch;
        let session = attachment.welcome.session;
        match self {
            Fault::Closed(code, text) => {
                Error::new(*code, Stage::Relay, format!("the session was closed: {text}"))
            }
            Fault::Gone if restarted => Error::new(
                Code::BrokerRestarted,
                Stage::Relay,
                format!("the broker of session {session} was replaced; send the request again"),
            ),
            Fault::Gone => Error::new(
                Code::BrokerGone,
                Stage::Relay,
                format!("the broker of session {session} exited; the next call attaches anew"),
            ),
        }
    }
}

/// Reads what the broker sent over the control socket.
pub(crate) fn read_news(control: &Control) -> News {
    let mut news = News::default();
    let mut buffer = [0; CONTROL_BYTES_MAX];
    for _ in 0..DATAGRAMS_PER_TURN {
        let bytes = match control.recv(&mut buffer) {
            Ok(received) => received.bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => 0,
        };
        if bytes == 0 {
            news.fault.get_or_insert(Fault::Gone);
            break;
        }
        match Message::parse(&buffer[..bytes]) {
            Ok(Message::Ring) => {}
            Ok(Message::Draining) => news.draining = true,
            Ok(Message::Goodbye(goodbye)) => {
                news.fault = Some(Fault::Closed(goodbye.code, goodbye.text));
            }
            Ok(_) => news.fault = Some(unexpected("a message that does not belong here")),
            Err(error) => news.fault = Some(unexpected(&error.to_string())),
        }
    }
    news
}

fn unexpected(what: &str) -> Fault {
    Fault::Closed(Code::ViolationControl, format!("the broker sent nonsense: {what}"))
}
