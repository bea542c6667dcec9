//! Sending a request on a shared session, and opening one when none has room.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringmain_shm::Readiness;
use ringmain_wire::limits::LANES_DEFAULT;
use ringmain_wire::{Code, Geometry, Stage};
use tokio::runtime::Handle as Runtime;

use super::{Hub, HubHandle, watch_error};
use crate::async_stream::AsyncStream;
use crate::attach::{Attachment, Knock, Patience, silent};
use crate::body::Body;
use crate::client::Pool;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::outbox::{Draft, chunk_bytes, encode_head};
use crate::request::Request;
use crate::session::deadline_ns;

/// The shared sessions of a client.
#[derive(Debug, Default)]
pub(crate) struct Hubs {
    // Bound: the client's `sessions_max`.
    list: Mutex<Vec<Arc<HubHandle>>>,
    /// One task opens a session while the others that found none wait for it.
    opening: tokio::sync::Mutex<()>,
}

/// Lanes of a shared session, unless the caller chose a geometry: fewer sessions, and more tokens
/// per wake-up, than with the default of a session that one thread uses.
const LANES_SHARED: u32 = 256;

/// Sends a request on a shared session with room, or on a new one.
pub(crate) async fn submit<B: Body>(
    pool: &Arc<Pool>,
    request: &Request<'_>,
    body: B,
) -> Result<AsyncStream> {
    let runtime = Runtime::try_current().map_err(|_| {
        Error::new(Code::InvalidRequest, Stage::Submit, "async calls need a tokio runtime")
    })?;
    let head = encode_head(&request.head)?;
    let deadline_ns = deadline_ns(request.deadline)?;
    let body_bytes_max = body.bytes_max();
    let (handle, draft) = match pool.hubs.reserve(head, body_bytes_max) {
        Ok(reserved) => reserved,
        Err(head) => open(pool, runtime, head, body_bytes_max, deadline_ns).await?,
    };
    send(handle, draft, request, body, deadline_ns)
}

async fn open(
    pool: &Arc<Pool>,
    runtime: Runtime,
    head: Vec<u8>,
    body_bytes_max: u64,
    deadline_ns: Option<u64>,
) -> Result<(Arc<HubHandle>, Draft)> {
    let mut config = pool.config_for(chunk_bytes(head.len(), body_bytes_max), body_bytes_max)?;
    config.geometry = shared(config.geometry);
    let patience = Patience::new(&config, deadline_ns);
    // Everyone waits on a clock of his own, or the patience of many would add up.
    let turn = tokio::time::timeout(patience.left(), pool.hubs.opening.lock());
    let Ok(_turn) = turn.await else {
        let text = "an attachment that other calls wait for too did not succeed in time; \
                    start `ringmain serve`, or look at its log";
        return Err(Error::new(Code::BrokerAbsent, Stage::Attach, text));
    };
    // Somebody may have opened one meanwhile.
    let head = match pool.hubs.reserve(head, body_bytes_max) {
        Ok(reserved) => return Ok(reserved),
        Err(head) => head,
    };
    let charge = pool.charge()?;
    let attachment = match attach_async(&config, patience).await {
        Ok(attachment) => attachment,
        Err(error) => return Err(pool.too_large(error, &config, body_bytes_max)),
    };
    pool.latest_epoch.store(attachment.welcome.epoch, Ordering::Relaxed);
    let hub = Hub::new(attachment, Arc::clone(&pool.latest_epoch));
    let handle = Arc::new(HubHandle::start(hub, &runtime, charge)?);
    let draft = handle.hub()?.reserve(head, body_bytes_max).map_err(|(error, _)| error)?;
    pool.hubs.list().push(Arc::clone(&handle));
    Ok((handle, draft))
}

fn send(
    handle: Arc<HubHandle>,
    mut draft: Draft,
    request: &Request<'_>,
    body: impl Body,
    deadline_ns: Option<u64>,
) -> Result<AsyncStream> {
    let hub = handle.hub()?;
    if let Err(error) = draft.fill(body) {
        hub.lock().outbox.abandon(draft);
        return Err(error);
    }
    let lane = draft.lane;
    let reader = hub.publish(draft, request, deadline_ns)?;
    let deadline_ns = hub.attachment.cap(deadline_ns);
    Ok(AsyncStream::new(handle, lane, reader, deadline_ns))
}

fn shared(geometry: Geometry) -> Geometry {
    if geometry.lanes() != LANES_DEFAULT {
        return geometry;
    }
    Geometry::new(LANES_SHARED, geometry.lane_bytes(), geometry.arena_bytes()).unwrap_or(geometry)
}

async fn attach_async(config: &Config, mut patience: Patience) -> Result<Attachment> {
    // Bound: the patience.
    loop {
        match knock_async(config, &patience).await {
            Ok(attachment) => return Ok(attachment),
            Err(error) => tokio::time::sleep(patience.wait_after(error)?).await,
        }
    }
}

async fn knock_async(config: &Config, patience: &Patience) -> Result<Attachment> {
    let knock = Knock::send(config)?;
    let control = knock.control.try_clone_fd().and_then(Readiness::new).map_err(watch_error)?;
    loop {
        if let Some((welcome, fds)) = knock.answer()? {
            return knock.finish(welcome, fds);
        }
        let left = patience.left();
        if left.is_zero() {
            return Err(silent());
        }
        if let Ok(readable) = tokio::time::timeout(left, control.readable()).await {
            readable.map_err(watch_error)?;
        }
    }
}

// --- Hubs ------------------------------------------------------------------------------------

impl Hubs {
    /// Lane and chunk on the first session that has both; the head comes back when none has.
    fn reserve(
        &self,
        mut head: Vec<u8>,
        body_bytes_max: u64,
    ) -> Result<(Arc<HubHandle>, Draft), Vec<u8>> {
        let mut list = self.list();
        list.retain(|handle| handle.hub().is_ok_and(|hub| hub.is_open()));
        for handle in list.iter() {
            let Ok(hub) = handle.hub() else { continue };
            match hub.reserve(head, body_bytes_max) {
                Ok(draft) => return Ok((Arc::clone(handle), draft)),
                Err((_, same)) => head = same,
            }
        }
        Err(head)
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<HubHandle>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
