//! A stand-in for a FleetLock server: the protocol as airlock speaks it, with the locks in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kpull::net::server::{Answer, Received};
use serde_json::{Value, json};

/// The slots of a group, and their holders.
struct Group {
    slots: usize,
    holders: Vec<String>,
}

/// Groups by name.
#[derive(Clone)]
pub struct StandIn(Arc<Mutex<BTreeMap<String, Group>>>);

impl StandIn {
    /// A server with these groups, each with so many slots.
    pub fn new(groups: &[(&str, usize)]) -> Self {
        let groups =
            groups.iter().map(|(name, slots)| ((*name).to_owned(), Group { slots: *slots, holders: Vec::new() }));
        Self(Arc::new(Mutex::new(groups.collect())))
    }

    /// Who has a slot of a group.
    pub fn holders(&self, group: &str) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[group].holders.clone()
    }

    /// Answers a request.
    pub fn answer(&self, request: &Received) -> Answer {
        self.judge(request).map_or_else(
            |(status, kind, value)| Answer::new(status, json!({ "kind": kind, "value": value }).to_string()),
            |()| Answer::new(200, ""),
        )
    }

    fn judge(&self, request: &Received) -> Result<(), (u16, &'static str, String)> {
        let bad = |why: &str| (400, "invalid_client_identity", format!("failed to validate client identity: {why}"));
        if !matches!(request.path.as_str(), "/v1/pre-reboot" | "/v1/steady-state") {
            return Err((404, "unknown_path", request.path.clone()));
        }
        if request.method != "POST" {
            return Err((405, "wrong_method", request.method.clone()));
        }
        if request.header("fleet-lock-protocol") != Some("true") {
            return Err(bad("wrong 'fleet-lock-protocol' header"));
        }
        let body: Value = serde_json::from_slice(&request.body).map_err(|why| bad(&why.to_string()))?;
        let field = |name: &str| body["client_params"][name].as_str().filter(|text| !text.is_empty());
        let group = field("group").ok_or_else(|| bad("empty client group"))?;
        let id = field("id").ok_or_else(|| bad("empty client ID"))?;
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Group { slots, holders } =
            groups.get_mut(group).ok_or_else(|| (400, "unknown_group", format!("unknown group {group:?}")))?;
        holders.retain(|holder| holder != id || request.path.ends_with("pre-reboot"));
        if request.path.ends_with("pre-reboot") && !holders.iter().any(|holder| holder == id) {
            if holders.len() >= *slots {
                return Err((500, "failed_lock", format!("all {slots} semaphore slots currently locked")));
            }
            holders.push(id.to_owned());
        }
        Ok(())
    }
}
