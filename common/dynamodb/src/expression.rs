//! Builds update and condition expressions. Every attribute name becomes a placeholder, because many of ours (`state`,
//! `name`, `owner`, `ttl` …) are reserved words.

use super::attributes::{Item, number, requests};
use aws_sdk_dynamodb::operation::delete_item::builders::DeleteItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::types::builders::UpdateBuilder;
use domain::RequestKey;
use std::collections::HashMap;

/// A conditional update of one item.
#[derive(Debug, Default)]
pub(super) struct Update {
    sets: Vec<String>,
    removes: Vec<String>,
    conditions: Vec<String>,
    names: HashMap<String, String>,
    values: Item,
}

impl Update {
    /// Sets an attribute.
    pub(super) fn set(mut self, attribute: &str, value: AttributeValue) -> Self {
        let (name, value) = (self.name(attribute), self.value(value));
        self.sets.push(format!("{name} = {value}"));
        self
    }

    /// Sets an attribute to the value of another one.
    pub(super) fn copy(mut self, attribute: &str, from: &str) -> Self {
        let (name, from) = (self.name(attribute), self.name(from));
        self.sets.push(format!("{name} = {from}"));
        self
    }

    /// Sets an attribute to a counter plus one. The counter may be that same attribute.
    pub(super) fn set_next(mut self, attribute: &str, counter: &str) -> Self {
        let (name, counter, one) = (self.name(attribute), self.name(counter), self.value(number(1_u64)));
        self.sets.push(format!("{name} = {counter} + {one}"));
        self
    }

    /// Appends an entry to a list.
    pub(super) fn append(mut self, list: &str, entry: AttributeValue) -> Self {
        let (list, entry) = (self.name(list), self.value(AttributeValue::L(vec![entry])));
        self.sets.push(format!("{list} = list_append({list}, {entry})"));
        self
    }

    /// Appends entries to a list, which is created if it is absent.
    pub(super) fn append_all(mut self, list: &str, entries: AttributeValue) -> Self {
        let none = self.value(AttributeValue::L(Vec::new()));
        let (list, entries) = (self.name(list), self.value(entries));
        self.sets.push(format!("{list} = list_append(if_not_exists({list}, {none}), {entries})"));
        self
    }

    /// Removes an attribute, if it is there.
    pub(super) fn remove(mut self, attribute: &str) -> Self {
        let name = self.name(attribute);
        self.removes.push(name);
        self
    }

    /// Only if the attribute equals `value`.
    pub(super) fn only_if(self, attribute: &str, value: AttributeValue) -> Self {
        self.only_if_compared(attribute, "=", value)
    }

    /// Only if the attribute differs from `value` or is absent.
    pub(super) fn only_if_not(self, attribute: &str, value: AttributeValue) -> Self {
        self.only_if_compared(attribute, "<>", value)
    }

    /// Only if the attribute is absent.
    pub(super) fn only_if_absent(mut self, attribute: &str) -> Self {
        let name = self.name(attribute);
        self.conditions.push(format!("attribute_not_exists({name})"));
        self
    }

    /// Only if the attribute contains exactly these requests; absent means none.
    pub(super) fn only_if_requests(self, attribute: &str, ids: &[RequestKey]) -> Self {
        if ids.is_empty() { self.only_if_absent(attribute) } else { self.only_if(attribute, requests(ids)) }
    }

    /// Sets the attribute to exactly these requests.
    pub(super) fn set_requests(self, attribute: &str, ids: &[RequestKey]) -> Self {
        if ids.is_empty() { self.remove(attribute) } else { self.set(attribute, requests(ids)) }
    }

    /// Only if the attribute equals one of `values`.
    pub(super) fn only_if_one_of(
        mut self,
        attribute: &str,
        values: impl IntoIterator<Item = AttributeValue>,
    ) -> Self {
        let name = self.name(attribute);
        let values: Vec<_> = values.into_iter().map(|value| self.value(value)).collect();
        self.conditions.push(format!("{name} IN ({})", values.join(", ")));
        self
    }

    /// Only if the attribute is present.
    pub(super) fn only_if_present(mut self, attribute: &str) -> Self {
        let name = self.name(attribute);
        self.conditions.push(format!("attribute_exists({name})"));
        self
    }

    /// Adds the expressions to an update request.
    pub(super) fn apply(self, request: UpdateItemFluentBuilder) -> UpdateItemFluentBuilder {
        request
            .update_expression(self.update_expression())
            .condition_expression(self.condition_expression())
            .set_expression_attribute_names(Some(self.names))
            .set_expression_attribute_values(some(self.values))
    }

    /// Adds the condition to a delete request.
    pub(super) fn apply_to_delete(self, request: DeleteItemFluentBuilder) -> DeleteItemFluentBuilder {
        request
            .condition_expression(self.condition_expression())
            .set_expression_attribute_names(Some(self.names))
            .set_expression_attribute_values(some(self.values))
    }

    /// Adds the expressions to one part of a transaction.
    pub(super) fn apply_in_transaction(self, part: UpdateBuilder) -> UpdateBuilder {
        part.update_expression(self.update_expression())
            .condition_expression(self.condition_expression())
            .set_expression_attribute_names(Some(self.names))
            .set_expression_attribute_values(some(self.values))
    }

    fn update_expression(&self) -> String {
        let parts = [("SET", &self.sets), ("REMOVE", &self.removes)];
        let parts = parts.iter().filter(|(_, actions)| !actions.is_empty());
        parts.map(|(verb, actions)| format!("{verb} {}", actions.join(", "))).collect::<Vec<_>>().join(" ")
    }

    fn condition_expression(&self) -> String {
        self.conditions.join(" AND ")
    }

    /// Only if the attribute compares so with `value`.
    pub(super) fn only_if_compared(
        mut self,
        attribute: &str,
        comparison: &str,
        value: AttributeValue,
    ) -> Self {
        let (name, value) = (self.name(attribute), self.value(value));
        self.conditions.push(format!("{name} {comparison} {value}"));
        self
    }

    fn name(&mut self, attribute: &str) -> String {
        let placeholder = format!("#{attribute}");
        self.names.insert(placeholder.clone(), attribute.to_owned());
        placeholder
    }

    fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":v{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }
}

/// DynamoDB refuses an empty map of values.
fn some(values: Item) -> Option<Item> {
    Some(values).filter(|values| !values.is_empty())
}
