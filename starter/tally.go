package main

import (
	"fmt"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/selection"
)

// tally is the numbers of a list of volumes.
type tally struct {
	Volumes     int                          `json:"volumes"`
	Protections map[selection.Protection]int `json:"protections"`
	States      map[selection.State]int      `json:"states"`
	Failing     int                          `json:"failing"`
	// Problems counts the volumes with annotations that are not understood.
	Problems int `json:"problems"`
}

func count(list []volume) tally {
	n := tally{Volumes: len(list), Protections: map[selection.Protection]int{}, States: map[selection.State]int{}}
	for _, one := range list {
		n.Protections[one.protection]++
		n.States[one.State]++
		if one.failing() {
			n.Failing++
		}
		if len(one.Problems) > 0 {
			n.Problems++
		}
	}
	return n
}

// String is the tally in one line, without what there is none of.
func (n tally) String() string {
	var parts []string
	add := func(n int, text string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, text))
		}
	}
	add(n.Protections[selection.Protected], "protected")
	add(n.Protections[selection.Impossible], "impossible to back up")
	add(n.Protections[selection.Never], "never backed up")
	add(n.Protections[selection.Late], "late")
	add(n.Protections[selection.Awaited], "waiting for the first backup")
	add(n.Protections[selection.Unwanted], "excluded")
	text := counted(n.Volumes, "volume")
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	parts = nil
	add(n.States[selection.Running], "running")
	add(n.Failing, "failing")
	add(n.Problems, "with annotations that are not understood")
	if len(parts) > 0 {
		text += "; " + strings.Join(parts, ", ")
	}
	return text
}
