package avahi

// Cut shortens a text to at most n bytes, at the end of a character, as it is done
// with names that are too long.
func Cut(s string, n int) string { return cutBytes(s, n) }

// KnownType says whether people have a word for a service type, see [TypeName].
func KnownType(t string) bool { _, ok := typeNames[foldName(t)]; return ok }
