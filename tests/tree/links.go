package tree

// linkGroups knows, of each file with several names, the first name that was
// come by. Two trees walked in the same order have the same hard links when
// every name leads to the same first one.
type linkGroups map[inode]string

// first returns the name by which the entry was first seen, which may be path.
func (l linkGroups) first(path string, e entry) string {
	if e.st.Nlink == 1 {
		return path
	}
	if first, ok := l[e.inode()]; ok {
		return first
	}
	l[e.inode()] = path
	return path
}

// compareLinks is for entries that both trees have: a name that one of them
// lacks is reported as such, and says nothing about the others.
func (c *comparison) compareLinks(path string, w, g entry) {
	want, got := c.wantLinks.first(path, w), c.gotLinks.first(path, g)
	switch {
	case want == got:
	case got == path:
		c.report(path, "hard link", "want a hard link to %q, got a file of its own", want)
	case want == path:
		c.report(path, "hard link", "want a file of its own, got a hard link to %q", got)
	default:
		c.report(path, "hard link", "want a hard link to %q, got one to %q", want, got)
	}
}
