// Package tree is the oracle of the tests: it makes a file tree with everything
// in it that backups tend to lose, changes it a little, and judges whether a
// restored tree equals the frozen one.
//
// It sees trees as restic must, but shares no code with it: all that is known
// about an entry comes from system calls made here. Both making and judging
// need root, because nobody else may create device nodes, give files away, or
// even see that a trusted.* attribute is missing.
package tree

import (
	"fmt"
	"os"
)

// mustBeRoot fails for anybody else, to whom two different trees may look equal.
func mustBeRoot(what string) error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("%s needs root, and this is uid %d", what, uid)
	}
	return nil
}
