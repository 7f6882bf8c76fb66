//! The items of templates: the head, which is in `StateIndex` while the template can be used, and the versions.

use super::attributes::{
    BY, Fields, Item, PK, SK, STATE_SHARD, STATE_SORT, VERSION, key_text, number, seconds, text,
};
use super::expression::Update;
use super::identity::{CONDITION_FAILED, CONFLICT};
use super::layout::item_key;
use super::{DynamoStore, table, unavailable};
use async_trait::async_trait;
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem};
use domain::{Template, TemplateHead, TemplateId, UnixSeconds};
use ports::store::{EntryPage, StoreError, TemplateItems};

mod spec;

/// Beginning of the partition key of a template's items. Alone it is the index key of the heads, which no pool's can
/// equal: those have a state after the name.
const TEMPLATE_PREFIX: &str = "TPL#";
/// Sort key of the head.
const HEAD: &str = "HEAD";
/// Beginning of the sort key of a version.
const VERSION_PREFIX: &str = "V#";
/// Digits of a version in its sort key, so that texts sort like the numbers.
const VERSION_DIGITS: usize = 10;
const CREATED_AT: &str = "created_at";
const UPDATED_AT: &str = "updated_at";
const REMOVED_AT: &str = "removed_at";

#[async_trait]
impl TemplateItems for DynamoStore {
    async fn template_head(&self, id: &TemplateId) -> Result<Option<TemplateHead>, StoreError> {
        let found = self.read_item("template_head", head_key(id)).await?;
        found.as_ref().map(decode_head).transpose()
    }

    async fn template(&self, id: &TemplateId, version: u64) -> Result<Option<Template>, StoreError> {
        let found = self.read_item("template", version_key(id, version)).await?;
        found.as_ref().map(decode).transpose()
    }

    async fn write_template(&self, seen: Option<&TemplateHead>, next: &Template) -> Result<bool, StoreError> {
        const OPERATION: &str = "write_template";
        let incomplete =
            |error: BuildError| StoreError::Unavailable { operation: OPERATION, source: Box::new(error) };
        let TemplateHead { id, version, created_at, updated_at, removed_at: _ } =
            TemplateHead::with(seen, next);
        let change = still(seen)
            .set(VERSION, number(version))
            .set(CREATED_AT, seconds(created_at))
            .set(UPDATED_AT, seconds(updated_at))
            .set(STATE_SHARD, text(TEMPLATE_PREFIX))
            .set(STATE_SORT, text(id.as_str()))
            .remove(REMOVED_AT);
        let head = aws_sdk_dynamodb::types::Update::builder().table_name(&self.table);
        let head = change.apply_in_transaction(head.set_key(Some(head_key(&id)))).build();
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(encode(next)))
            .condition_expression("attribute_not_exists(#pk)")
            .expression_attribute_names("#pk", PK)
            .build();
        let parts = [
            TransactWriteItem::builder().update(head.map_err(incomplete)?).build(),
            TransactWriteItem::builder().put(put.map_err(incomplete)?).build(),
        ];
        let request = self.client.transact_write_items().set_transact_items(Some(parts.into()));
        let Err(error) = request.send().await else { return Ok(true) };
        let is_lost = match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                let codes = cancelled.cancellation_reasons().iter().filter_map(|reason| reason.code());
                // After a conflict as after a failed condition, the caller looks at the head again.
                codes.into_iter().any(|code| [CONDITION_FAILED, CONFLICT].contains(&code))
            }
            _ => false,
        };
        if is_lost { Ok(false) } else { Err(unavailable(OPERATION, error)) }
    }

    async fn mark_template(
        &self,
        seen: &TemplateHead,
        removed_at: Option<UnixSeconds>,
    ) -> Result<bool, StoreError> {
        let change = still(Some(seen));
        let change = match removed_at {
            Some(at) => change.set(REMOVED_AT, seconds(at)).remove(STATE_SHARD).remove(STATE_SORT),
            None => change
                .remove(REMOVED_AT)
                .set(STATE_SHARD, text(TEMPLATE_PREFIX))
                .set(STATE_SORT, text(seen.id.as_str())),
        };
        let request = self.client.update_item().table_name(&self.table).set_key(Some(head_key(&seen.id)));
        let Err(error) = change.apply(request).send().await else { return Ok(true) };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(false),
            _ => Err(unavailable("mark_template", error)),
        }
    }

    async fn templates(
        &self,
        after: Option<&TemplateId>,
        limit: u16,
    ) -> Result<EntryPage<TemplateHead, TemplateId>, StoreError> {
        let start = after.map(|after| {
            let mut start = head_key(after);
            start.insert(STATE_SHARD.to_owned(), text(TEMPLATE_PREFIX));
            start.insert(STATE_SORT.to_owned(), text(after.as_str()));
            start
        });
        let found = self.query_hash("templates", table::STATE_INDEX, TEMPLATE_PREFIX, start, limit).await?;
        // An item that cannot be read is logged and left out.
        let (entries, _) = self.sort_out(found.items(), decode_head)?;
        let next = found.last_evaluated_key().map(|key| id_of(Fields::new(key, &key_text(key))));
        Ok(EntryPage { entries, next: next.transpose()? })
    }

    async fn template_versions(
        &self,
        id: &TemplateId,
        before: Option<u64>,
        limit: u16,
    ) -> Result<EntryPage<Template, u64>, StoreError> {
        let found = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("#pk = :pk AND begins_with(#sk, :version)")
            .expression_attribute_names("#pk", PK)
            .expression_attribute_names("#sk", SK)
            .expression_attribute_values(":pk", text(partition(id)))
            .expression_attribute_values(":version", text(VERSION_PREFIX))
            .set_exclusive_start_key(before.map(|before| version_key(id, before)))
            .scan_index_forward(false)
            .consistent_read(true)
            .limit(i32::from(limit.max(1)))
            .send()
            .await
            .map_err(|error| unavailable("template_versions", error))?;
        let (entries, _) = self.sort_out(found.items(), decode)?;
        let next = found.last_evaluated_key().map(|key| version_of(Fields::new(key, &key_text(key))));
        Ok(EntryPage { entries, next: next.transpose()? })
    }
}

fn partition(id: &TemplateId) -> String {
    format!("{TEMPLATE_PREFIX}{id}")
}

fn head_key(id: &TemplateId) -> Item {
    item_key((&partition(id), HEAD))
}

fn version_key(id: &TemplateId, version: u64) -> Item {
    item_key((&partition(id), &format!("{VERSION_PREFIX}{version:0VERSION_DIGITS$}")))
}

fn id_of(fields: Fields<'_>) -> Result<TemplateId, StoreError> {
    fields.key_id(PK, TEMPLATE_PREFIX, TemplateId::parse)
}

fn version_of(fields: Fields<'_>) -> Result<u64, StoreError> {
    let version = fields.text(SK)?.strip_prefix(VERSION_PREFIX).and_then(|digits| digits.parse().ok());
    version.ok_or_else(|| fields.corrupt(SK, "is no version"))
}

/// The condition that the head equals `seen`.
fn still(seen: Option<&TemplateHead>) -> Update {
    let Some(TemplateHead { id: _, version, created_at: _, updated_at: _, removed_at }) = seen else {
        return Update::default().only_if_absent(VERSION);
    };
    let change = Update::default().only_if(VERSION, number(*version));
    match removed_at {
        Some(at) => change.only_if(REMOVED_AT, seconds(*at)),
        None => change.only_if_absent(REMOVED_AT),
    }
}

fn decode_head(item: &Item) -> Result<TemplateHead, StoreError> {
    let key = key_text(item);
    let fields = Fields::new(item, &key);
    Ok(TemplateHead {
        id: id_of(fields)?,
        version: fields.number(VERSION)?,
        created_at: fields.seconds(CREATED_AT)?,
        updated_at: fields.seconds(UPDATED_AT)?,
        removed_at: fields.has(REMOVED_AT).then(|| fields.seconds(REMOVED_AT)).transpose()?,
    })
}

fn encode(template: &Template) -> Item {
    let Template { id, version, created_at, by, spec } = template;
    let mut item = version_key(id, *version);
    let own: [(&str, AttributeValue); 2] = [(CREATED_AT, seconds(*created_at)), (BY, text(by.as_str()))];
    item.extend(own.into_iter().chain(spec::encode(spec)).map(|(name, value)| (name.to_owned(), value)));
    item
}

fn decode(item: &Item) -> Result<Template, StoreError> {
    let key = key_text(item);
    let fields = Fields::new(item, &key);
    Ok(Template {
        id: id_of(fields)?,
        version: version_of(fields)?,
        created_at: fields.seconds(CREATED_AT)?,
        by: fields.id(BY, domain::Actor::parse)?,
        spec: spec::decode(fields)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::template::Image;
    use domain::{Actor, TemplateSpec};

    #[test]
    fn damaged_item_is_named() {
        let template = Template {
            id: TemplateId::parse("python").unwrap(),
            version: 7,
            created_at: UnixSeconds::new(5),
            by: Actor::nats(),
            spec: TemplateSpec::of_image(Image::Host),
        };
        let mut item = encode(&template);
        assert_eq!(decode(&item).unwrap(), template);
        item.insert("network".to_owned(), text("cellular"));
        let error = decode(&item).unwrap_err().to_string();
        assert_eq!(error, "item TPL#python/V#0000000007: attribute network: is unknown to this build");
    }
}
