//! The back-fill of `GroupIndex`: one pass over the table that gives every sandbox the group of the lab it is held for,
//! and removes groups that builds before that index left on ended leases.
//!
//! Every write is a conditional update of one item, so the pass runs beside claims and releases and may be repeated. The
//! progress is an item of the table: a pass that stopped continues there, and one that was overtaken by another stops.

use super::attributes::{
    AT, Fields, GRANTED_AT, GROUP, GROUP_SORT, HELD_LAB, Item, PK, SK, VERSION, key_text, number, seconds,
    text,
};
use super::expression::Update;
use super::layout::item_key;
use super::{DynamoStore, unavailable};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use domain::{LabId, UnixSeconds};
use ports::store::StoreError;
use ports::store::index::{due_sort, lab_group};

/// Key of the item with the progress.
const PROGRESS_KEY: (&str, &str) = ("TABLE", "GROUPS");
/// Key of the last item that was looked at; absent before the first page and after the last.
const AFTER: &str = "after";
const SCANNED: &str = "scanned";
const SET: &str = "set";
const REMOVED: &str = "removed";
const UNREADABLE: &str = "unreadable";
/// Attempts to correct one item; each that fails met a concurrent change of that item.
const ATTEMPTS_MAX: u32 = 8;
/// The operation in errors.
pub(super) const OPERATION: &str = "back_fill";

/// How far the back-fill is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackFill {
    /// Grows with every write of the progress; 0 before the first.
    pub version: u64,
    /// Key of the last item that was looked at, while a pass is unfinished.
    pub after: Option<(String, String)>,
    /// Items that the current or last pass looked at.
    pub scanned: u64,
    /// Of these, sandboxes that got their group.
    pub set: u64,
    /// Of these, sandboxes that lost a stale group.
    pub removed: u64,
    /// Of these, sandboxes that this build cannot read; the log names them. No listing shows them.
    pub unreadable: u64,
    /// When the last complete pass ended; a new table counts as back-filled.
    pub completed_at: Option<UnixSeconds>,
}

/// A page of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageEnd {
    /// More pages follow.
    More(BackFill),
    /// It was the last page. [`DynamoStore::finish_back_fill`] ends the pass; until then, the page is repeated.
    Last(BackFill),
}

/// What has to be done to an item.
#[derive(Debug, PartialEq, Eq)]
enum Correction {
    Set { lab: LabId, granted_at: UnixSeconds },
    Remove,
}

// === impl BackFill ===

impl BackFill {
    /// The progress before the first page of a new pass.
    #[must_use]
    pub fn restarted(&self) -> Self {
        Self { version: self.version, completed_at: self.completed_at, ..Self::default() }
    }

    fn encode(&self) -> Item {
        let Self { version, after, scanned, set, removed, unreadable, completed_at } = self;
        let mut item = item_key(PROGRESS_KEY);
        let counts = [
            (VERSION, version),
            (SCANNED, scanned),
            (SET, set),
            (REMOVED, removed),
            (UNREADABLE, unreadable),
        ];
        for (name, count) in counts {
            item.insert(name.to_owned(), number(*count));
        }
        if let Some((hash, range)) = after {
            item.insert(AFTER.to_owned(), AttributeValue::M(item_key((hash, range))));
        }
        if let Some(at) = completed_at {
            item.insert(AT.to_owned(), seconds(*at));
        }
        item
    }

    fn decode(item: &Item) -> Result<Self, StoreError> {
        let key = key_text(item);
        let fields = Fields::new(item, &key);
        let after = match item.get(AFTER) {
            Some(AttributeValue::M(after)) => {
                let after = Fields::new(after, &key);
                Some((after.text(PK)?.to_owned(), after.text(SK)?.to_owned()))
            }
            _ => None,
        };
        Ok(Self {
            version: fields.number(VERSION)?,
            after,
            scanned: fields.number(SCANNED)?,
            set: fields.number(SET)?,
            removed: fields.number(REMOVED)?,
            unreadable: fields.number(UNREADABLE)?,
            completed_at: if fields.has(AT) { Some(fields.seconds(AT)?) } else { None },
        })
    }
}

// === impl Correction ===

impl Correction {
    /// None if the item has the group that it should have. Attributes of `LabIndex` decide, because every build
    /// maintains them.
    fn of(item: &Item) -> Result<Option<Self>, StoreError> {
        let key = key_text(item);
        let fields = Fields::new(item, &key);
        if !fields.has(HELD_LAB) {
            return Ok((fields.has(GROUP) || fields.has(GROUP_SORT)).then_some(Self::Remove));
        }
        let (lab, granted_at) = (fields.id(HELD_LAB, LabId::parse)?, fields.seconds(GRANTED_AT)?);
        let has = |name, value: String| item.get(name) == Some(&text(value));
        let is_right = has(GROUP, lab_group(&lab)) && has(GROUP_SORT, due_sort(granted_at));
        Ok((!is_right).then_some(Self::Set { lab, granted_at }))
    }

    fn update(&self) -> Update {
        match self {
            Self::Set { lab, granted_at } => Update::default()
                .set(GROUP, text(lab_group(lab)))
                .set(GROUP_SORT, text(due_sort(*granted_at)))
                .only_if(HELD_LAB, text(lab.as_str()))
                .only_if(GRANTED_AT, seconds(*granted_at)),
            Self::Remove => Update::default().remove(GROUP).remove(GROUP_SORT).only_if_absent(HELD_LAB),
        }
    }
}

// === impl DynamoStore ===

impl DynamoStore {
    /// The progress, by a strongly consistent read.
    ///
    /// # Errors
    /// [`StoreError`] when the table does not answer.
    pub async fn back_fill(&self) -> Result<BackFill, StoreError> {
        let found = self.read_item(OPERATION, item_key(PROGRESS_KEY)).await?;
        Ok(found.as_ref().map(BackFill::decode).transpose()?.unwrap_or_default())
    }

    /// Corrects the next `limit` items and stores the progress; none if another pass stored its own since `seen`.
    ///
    /// # Errors
    /// [`StoreError`] when a call fails.
    pub async fn back_fill_page(&self, seen: &BackFill, limit: u16) -> Result<Option<PageEnd>, StoreError> {
        let found = self
            .client
            .scan()
            .table_name(&self.table)
            .consistent_read(true)
            .set_exclusive_start_key(seen.after.as_ref().map(|(hash, range)| item_key((hash, range))))
            .limit(i32::from(limit.max(1)))
            .send()
            .await
            .map_err(|error| unavailable(OPERATION, error))?;
        let mut next = BackFill { version: seen.version + 1, ..seen.clone() };
        for item in found.items() {
            next.scanned += 1;
            match self.correct(item.clone()).await {
                Ok(None) => {}
                Ok(Some(Correction::Set { .. })) => next.set += 1,
                Ok(Some(Correction::Remove)) => next.removed += 1,
                Err(error) => {
                    self.report(&error.into_unreadable()?);
                    next.unreadable += 1;
                }
            }
        }
        let Some(last) = found.last_evaluated_key() else { return Ok(Some(PageEnd::Last(next))) };
        let key = key_text(last);
        let last = Fields::new(last, &key);
        next.after = Some((last.text(PK)?.to_owned(), last.text(SK)?.to_owned()));
        Ok(self.put_progress(&next).await?.then_some(PageEnd::More(next)))
    }

    /// Ends a pass after its last page; false if another pass stored its progress meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] when the table does not answer.
    pub async fn finish_back_fill(&self, last: &BackFill, now: UnixSeconds) -> Result<bool, StoreError> {
        let finished = BackFill { after: None, completed_at: Some(now), ..last.clone() };
        self.put_progress(&finished).await
    }

    /// Marks a new table as back-filled.
    pub(super) async fn note_back_filled(&self) -> Result<(), StoreError> {
        // The moment does not matter: the table has no records yet.
        let complete =
            BackFill { version: 1, completed_at: Some(UnixSeconds::new(0)), ..BackFill::default() };
        self.put_if_absent(OPERATION, complete.encode()).await.map(drop)
    }

    /// Corrects one item; none if it has its group already.
    async fn correct(&self, mut item: Item) -> Result<Option<Correction>, StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(correction) = Correction::of(&item)? else { return Ok(None) };
            let key = [PK, SK].iter().filter_map(|name| Some(((*name).to_owned(), item.get(*name)?.clone())));
            let request = self
                .client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(key.collect()))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            let Err(error) = correction.update().apply(request).send().await else {
                return Ok(Some(correction));
            };
            item = match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => match refused.item() {
                    Some(found) if !found.is_empty() => found.clone(),
                    // It was removed meanwhile.
                    _ => return Ok(None),
                },
                _ => return Err(unavailable(OPERATION, error)),
            };
        }
        let problem =
            format!("{} changed {ATTEMPTS_MAX} times while it was corrected; try again", key_text(&item));
        Err(StoreError::Unavailable { operation: OPERATION, source: problem.into() })
    }

    async fn put_progress(&self, next: &BackFill) -> Result<bool, StoreError> {
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(next.encode()))
            .expression_attribute_names("#version", VERSION)
            .expression_attribute_values(":seen", number(next.version.saturating_sub(1)))
            .condition_expression(match next.version {
                // The value has to be used in any case.
                1 => "attribute_not_exists(#version) OR #version = :seen",
                _ => "#version = :seen",
            });
        let Err(error) = put.send().await else { return Ok(true) };
        match error.as_service_error() {
            // A write whose reply was lost finds its own value.
            Some(PutItemError::ConditionalCheckFailedException(_)) => Ok(self.back_fill().await? == *next),
            _ => Err(unavailable(OPERATION, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(attributes: &[(&str, &str)]) -> Item {
        let texts = attributes.iter().map(|(name, value)| ((*name).to_owned(), text(*value)));
        texts.chain([(GRANTED_AT.to_owned(), number(300_u64))]).collect()
    }

    #[test]
    fn progress_round_trips() {
        let started = BackFill {
            version: 3,
            after: Some(("SBX#7".to_owned(), "META".to_owned())),
            scanned: 9,
            set: 2,
            removed: 1,
            unreadable: 4,
            completed_at: None,
        };
        let finished = BackFill { after: None, completed_at: Some(UnixSeconds::new(7)), ..started.clone() };
        for progress in [started, finished, BackFill::default()] {
            assert_eq!(BackFill::decode(&progress.encode()).unwrap(), progress);
        }
    }

    #[test]
    fn corrections_follow_the_attributes_that_every_build_maintains() {
        let wanted = Correction::Set { lab: LabId::parse("a").unwrap(), granted_at: UnixSeconds::new(300) };
        let right = [(HELD_LAB, "a"), (GROUP, "LAB#a"), (GROUP_SORT, "000000000300")];
        assert_eq!(Correction::of(&item(&right)).unwrap(), None);
        assert_eq!(Correction::of(&item(&[])).unwrap(), None);
        assert_eq!(Correction::of(&item(&right[..1])).unwrap(), Some(wanted));
        assert_eq!(Correction::of(&item(&right[1..])).unwrap(), Some(Correction::Remove));
        for (at, other) in [(1, "LAB#b"), (2, "000000000301")] {
            let mut stale = right;
            stale[at].1 = other;
            assert!(matches!(Correction::of(&item(&stale)).unwrap(), Some(Correction::Set { .. })));
        }
    }
}
