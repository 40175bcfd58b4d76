package schedules

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// field is one property of a schedule in words.
type field struct{ name, value string }

// form is all that a schedule is set to, but for its state, as people write it. Two
// schedules with the same form do the same: Temporal returns times in another shape
// than it was given them.
type form []field

// formOf renders a schedule, first what Ammonite sets and then what it never does
// but other people may.
func formOf(s *schedulepb.Schedule) form {
	rest := proto.Clone(s).(*schedulepb.Schedule)
	rest.State = nil
	var f form
	add := func(name, value string) {
		if value != "" {
			f = append(f, field{name, value})
		}
	}
	if spec := rest.GetSpec(); spec != nil {
		add("when", words(spec))
		add("time zone", spec.TimezoneName)
		add("jitter", backup.Duration(spec.GetJitter().AsDuration()).String())
		spec.StructuredCalendar, spec.Interval, spec.TimezoneName, spec.Jitter = nil, nil, "", nil
	}
	if p := rest.GetPolicies(); p != nil {
		add("catch-up window", backup.Duration(p.GetCatchupWindow().AsDuration()).String())
		add("overlap", strings.ToLower(p.GetOverlapPolicy().String()))
		p.CatchupWindow, p.OverlapPolicy = nil, 0
	}
	var input form
	if start := rest.GetAction().GetStartWorkflow(); start != nil {
		add("workflow", start.GetWorkflowType().GetName())
		add("workflow ID", start.GetWorkflowId())
		add("task queue", start.GetTaskQueue().GetName())
		add("priority", fmt.Sprint(start.GetPriority().GetPriorityKey()))
		add("summary", textOf(start.GetUserMetadata().GetSummary()))
		for _, p := range start.GetInput().GetPayloads() {
			input = append(input, formOfPayload("input", p)...)
		}
		start.WorkflowType, start.WorkflowId, start.TaskQueue, start.Input = nil, "", nil, nil
		if start.Priority != nil {
			start.Priority.PriorityKey = 0
		}
		if start.UserMetadata != nil {
			start.UserMetadata.Summary = nil
		}
	}
	return append(append(f, input...), formOfMessage(rest)...)
}

// formOfMessage renders whatever is set in a message.
func formOfMessage(m proto.Message) form {
	text, err := protojson.Marshal(m)
	if err != nil {
		return form{{"unreadable", err.Error()}}
	}
	return formOfJSON("", text)
}

// formOfPayload renders an argument; one that is not JSON by its hash.
func formOfPayload(name string, p *commonpb.Payload) form {
	if !json.Valid(p.GetData()) {
		return form{{name, "sha256:" + hashOf(p.GetData())}}
	}
	return formOfJSON(name, p.GetData())
}

// formOfJSON renders every value that is not zero by its path.
func formOfJSON(name string, text []byte) form {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return form{{name, string(text)}}
	}
	var f form
	flatten(&f, name, value)
	return f
}

func flatten(f *form, path string, value any) {
	switch v := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			flatten(f, join(path, name), v[name])
		}
	case []any:
		for i, element := range v {
			flatten(f, fmt.Sprintf("%s[%d]", path, i), element)
		}
	case nil:
	default:
		// A duration of protobuf's is "0s" when it is zero.
		if text := fmt.Sprint(v); text != "" && text != "0" && text != "0s" && text != "false" {
			*f = append(*f, field{path, text})
		}
	}
}

func textOf(p *commonpb.Payload) string {
	var text string
	if p == nil || converter.GetDefaultDataConverter().FromPayload(p, &text) != nil {
		return ""
	}
	return text
}

// hash is the same for the same form.
func (f form) hash() string {
	var text strings.Builder
	for _, one := range f {
		fmt.Fprintf(&text, "%q=%q\n", one.name, one.value)
	}
	return hashOf([]byte(text.String()))
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}
