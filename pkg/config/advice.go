package config

import (
	"slices"
	"strings"
)

// ShardKeyAdvice says why a field is a poor shard key under a strategy ("hash" or "range"), judged by its name, or "" when
// nothing speaks against it (SHD-09). Good keys have many values and spread writes: a user id, a UUID, a hash of several
// fields.
func ShardKeyAdvice(strategy, field string) string {
	words := splitWords(field)
	last := words[len(words)-1]
	is := func(list ...string) bool { return slices.Contains(list, last) }
	const good = "; good keys: a user id, a UUID, a hash of several fields"
	switch {
	case is("at", "time", "timestamp", "date", "day", "month", "year", "hour", "ts", "created", "updated", "modified"):
		if strategy == "range" {
			return "a time: all new documents go to the newest shard, which runs hot" + good
		}
		return "a time: all documents of one moment go to one shard" + good
	case strategy == "range" && is("seq", "sequence", "serial", "counter", "number", "nr", "autoincrement", "rowid", "index"),
		strategy == "range" && (field == "id" || field == "_id" || strings.HasSuffix(strings.ToLower(field), "auto_id")):
		return "a sequential id: all writes go to the shard with the highest ids" + good
	case is("status", "state", "type", "kind", "category", "level", "priority", "gender", "country", "active", "inactive", "enabled", "disabled", "deleted", "flag", "class", "role"),
		words[0] == "is" && len(words) > 1, words[0] == "has" && len(words) > 1:
		return "few different values: a few shards get everything, and a value can't be split" + good
	}
	return ""
}

// splitWords cuts created_at, createdAt and user.created-at into lower-case words; at least one.
func splitWords(field string) []string {
	var b strings.Builder
	for i, c := range field {
		if c >= 'A' && c <= 'Z' && i > 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	words := strings.FieldsFunc(strings.ToLower(b.String()), func(c rune) bool { return strings.ContainsRune(" _-.", c) })
	if len(words) == 0 {
		return []string{""}
	}
	return words
}

// checkAdvice warns of poor shard keys.
func (r *reader) checkAdvice() {
	strategy := r.str("sharding.strategy")
	if field := r.str("sharding.key"); field != "" {
		if why := ShardKeyAdvice(strategy, field); why != "" {
			r.crossWarn([]string{"sharding.key"}, "%s is %s", field, why)
		}
	}
	for _, rule := range r.objs("sharding.co_location.rules") {
		field := show(rule.fields["key"])
		if why := ShardKeyAdvice("hash", field); why != "" {
			r.crossWarn([]string{"sharding.co_location.rules"}, "%s is %s", field, why)
		}
	}
	if len(r.objs("sharding.co_location.rules")) > 0 && !r.on("sharding.co_location.enabled") {
		r.crossWarn([]string{"sharding.co_location.rules"}, "counts only with sharding.co_location.enabled")
	}
}
