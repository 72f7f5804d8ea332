package schema

// IndexPrefix is what the names of the type's daily indices begin with: <prefix>-<type>.
func (t *Type) IndexPrefix(prefix string) string { return prefix + "-" + t.Name }
