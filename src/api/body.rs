//! An answer's body: one short text, or the metrics page by page, each page made when the one before
//! it has gone out. So a client that does not read costs one page, however many servers there are. Or events, as long
//! as the client stays.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::events::Live;
use super::metrics::Pages;

pub(super) enum Content {
    Text(Bytes),
    Events(Live),
    /// `pause`: a page has just been made.
    Metrics {
        pages: Pages,
        pause: bool,
    },
}

/// Its connection counts as busy while it lives.
pub(super) struct Answer {
    content: Content,
    busy: Arc<AtomicBool>,
}

impl Answer {
    pub(super) fn new(content: Content, busy: Arc<AtomicBool>) -> Answer {
        busy.store(true, Ordering::Relaxed);
        Answer { content, busy }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.busy.store(false, Ordering::Relaxed);
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match &mut self.content {
            Content::Text(text) => Some(std::mem::take(text)).filter(|text| !text.is_empty()),
            Content::Events(live) => {
                return live
                    .poll_frame(cx)
                    .map(|bytes| Some(Ok(Frame::data(bytes))));
            }
            // Hyper asks for many frames in a row; a page is work, so the task yields after each.
            Content::Metrics {
                pause: pause @ true,
                ..
            } => {
                *pause = false;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Content::Metrics { pages, pause } => {
                *pause = true;
                pages.next().map(Bytes::from)
            }
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Text(text) => text.is_empty(),
            Content::Events(_) | Content::Metrics { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Text(text) => SizeHint::with_exact(text.len() as u64),
            Content::Events(_) | Content::Metrics { .. } => SizeHint::default(),
        }
    }
}
