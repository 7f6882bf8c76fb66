//! What was done before a deletion, as a map of the sandbox item. Items of older builds have none.

use super::super::attributes::{Fields, Item, PRE_CLEAN, REASON, RESULT, SERVICES, WENT_ON, number, text};
use aws_sdk_dynamodb::types::AttributeValue;
use domain::{Preparation, Skip};
use ports::store::StoreError;

/// The attribute of a result.
pub(in super::super) fn encode(preparation: &Preparation) -> AttributeValue {
    let parts = match preparation {
        Preparation::Skipped(skip) => vec![(REASON, text(skip.as_str()))],
        Preparation::Done { count } | Preparation::Shadowed { count } => {
            vec![(SERVICES, number(*count))]
        }
        Preparation::Failed { reason, went_on } => {
            vec![(REASON, text(reason)), (WENT_ON, AttributeValue::Bool(*went_on))]
        }
    };
    let mut map = Item::from([(RESULT.to_owned(), text(preparation.as_str()))]);
    map.extend(parts.into_iter().map(|(name, value)| (name.to_owned(), value)));
    AttributeValue::M(map)
}

/// The result in an item, if there is one.
pub(super) fn decode(fields: Fields<'_>) -> Result<Option<Preparation>, StoreError> {
    let Some(map) = fields.optional_map(PRE_CLEAN)? else { return Ok(None) };
    let within = fields.within(map);
    let count = || {
        let count = within.number(SERVICES)?;
        u32::try_from(count).map_err(|_| fields.corrupt(PRE_CLEAN, "counts too many services"))
    };
    let preparation = match within.text(RESULT)? {
        "skipped" => Preparation::Skipped(
            Skip::parse(within.text(REASON)?)
                .ok_or_else(|| fields.corrupt(PRE_CLEAN, "was skipped for a reason that there is not"))?,
        ),
        "cleaned" => Preparation::Done { count: count()? },
        "shadowed" => Preparation::Shadowed { count: count()? },
        "failed" => {
            Preparation::Failed { reason: within.text(REASON)?.to_owned(), went_on: within.switch(WENT_ON)? }
        }
        _ => return Err(fields.corrupt(PRE_CLEAN, "is no result of clearing")),
    };
    Ok(Some(preparation))
}
