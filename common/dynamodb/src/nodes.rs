//! The items of nodes. All of them are in `StateIndex`, under one key.

use super::attributes::{
    Fields, Item, PK, STATE_SHARD, STATE_SORT, VERSION, key_text, number, seconds, text,
};
use super::expression::Update;
use super::layout::item_key;
use super::{DynamoStore, table, unavailable};
use async_trait::async_trait;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use domain::template::Isolation;
use domain::{Drain, Node, NodeId};
use ports::store::{EntryPage, NodeItems, StoreError};

/// Beginning of the partition key of a node's item. Alone it is the index key of all nodes, which no pool's can equal.
const NODE_PREFIX: &str = "NODE#";
/// Sort key of the item.
const META: &str = "META";
const ENGINE: &str = "engine";
const ISOLATION: &str = "isolation";
const BROKER: &str = "broker";
const REGISTERED_AT: &str = "registered_at";
const LOST_AT: &str = "lost_at";
const DRAINED_AT: &str = "drained_at";
const DRAINED_BY: &str = "drained_by";

#[async_trait]
impl NodeItems for DynamoStore {
    async fn node(&self, id: &NodeId) -> Result<Option<Node>, StoreError> {
        let found = self.read_item("node", key(id)).await?;
        found.as_ref().map(decode).transpose()
    }

    async fn write_node(&self, seen: Option<&Node>, next: &Node) -> Result<bool, StoreError> {
        let Node { id, generation, engine, isolation, version, registered_at, lost_at, drain } = next;
        let seen_drain = seen.and_then(|seen| seen.drain);
        let seen = [
            (VERSION, seen.map(|seen| number(seen.generation))),
            (DRAINED_AT, seen_drain.map(|drain| seconds(drain.since))),
            (DRAINED_BY, seen_drain.and_then(|drain| drain.deadline).map(seconds)),
        ];
        let change = seen.into_iter().fold(Update::default(), |update, (attribute, value)| match value {
            Some(value) => update.only_if(attribute, value),
            None => update.only_if_absent(attribute),
        });
        let isolation: &str = isolation.into();
        let change = change
            .set(VERSION, number(*generation))
            .set(ENGINE, text(engine))
            .set(ISOLATION, text(isolation))
            .set(BROKER, text(version))
            .set(REGISTERED_AT, seconds(*registered_at))
            .set(STATE_SHARD, text(NODE_PREFIX))
            .set(STATE_SORT, text(id.as_str()));
        let optional = [
            (LOST_AT, *lost_at),
            (DRAINED_AT, drain.map(|drain| drain.since)),
            (DRAINED_BY, drain.and_then(|drain| drain.deadline)),
        ];
        let change = optional.into_iter().fold(change, |update, (attribute, at)| match at {
            Some(at) => update.set(attribute, seconds(at)),
            None => update.remove(attribute),
        });
        let request = self.client.update_item().table_name(&self.table).set_key(Some(key(id)));
        let Err(error) = change.apply(request).send().await else { return Ok(true) };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(false),
            _ => Err(unavailable("write_node", error)),
        }
    }

    async fn nodes(&self, after: Option<&NodeId>, limit: u16) -> Result<EntryPage<Node, NodeId>, StoreError> {
        let start = after.map(|after| {
            let mut start = key(after);
            start.insert(STATE_SHARD.to_owned(), text(NODE_PREFIX));
            start.insert(STATE_SORT.to_owned(), text(after.as_str()));
            start
        });
        let found = self.query_hash("nodes", table::STATE_INDEX, NODE_PREFIX, start, limit).await?;
        // An item that cannot be read is logged and left out.
        let (entries, _) = self.sort_out(found.items(), decode)?;
        let next = found.last_evaluated_key().map(|key| id_of(Fields::new(key, &key_text(key))));
        Ok(EntryPage { entries, next: next.transpose()? })
    }
}

fn key(id: &NodeId) -> Item {
    item_key((&format!("{NODE_PREFIX}{id}"), META))
}

fn id_of(fields: Fields<'_>) -> Result<NodeId, StoreError> {
    fields.key_id(PK, NODE_PREFIX, NodeId::parse)
}

fn decode(item: &Item) -> Result<Node, StoreError> {
    let key = key_text(item);
    let fields = Fields::new(item, &key);
    let optional = |attribute| fields.has(attribute).then(|| fields.seconds(attribute)).transpose();
    let drain = match optional(DRAINED_AT)? {
        Some(since) => Some(Drain { since, deadline: optional(DRAINED_BY)? }),
        None => None,
    };
    let unknown = |_| fields.corrupt(ISOLATION, "is unknown to this build");
    Ok(Node {
        id: id_of(fields)?,
        generation: fields.number(VERSION)?,
        engine: fields.text(ENGINE)?.to_owned(),
        isolation: fields.text(ISOLATION)?.parse::<Isolation>().map_err(unknown)?,
        version: fields.text(BROKER)?.to_owned(),
        registered_at: fields.seconds(REGISTERED_AT)?,
        lost_at: optional(LOST_AT)?,
        drain,
    })
}
