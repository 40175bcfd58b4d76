package schedules

import (
	"context"
	"errors"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"

	"github.com/ammonite-backup/ammonite/workflows"
)

// RegisterSearchAttributes adds those of Ammonite's search attributes that the
// namespace lacks. Adding one that exists with another type goes unnoticed on
// some stores, so the types are compared afterwards.
func RegisterSearchAttributes(ctx context.Context, operator operatorservice.OperatorServiceClient, namespace string) error {
	wanted := map[string]enumspb.IndexedValueType{}
	for _, key := range workflows.SearchAttributes() {
		wanted[key.GetName()] = key.GetValueType()
	}
	list := func() (map[string]enumspb.IndexedValueType, error) {
		have, err := operator.ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
		if err != nil {
			return nil, fmt.Errorf("listing the search attributes of namespace %s: %w", namespace, err)
		}
		return have.GetCustomAttributes(), nil
	}
	have, err := list()
	if err != nil {
		return err
	}
	missing := map[string]enumspb.IndexedValueType{}
	for name, kind := range wanted {
		if _, ok := have[name]; !ok {
			missing[name] = kind
		}
	}
	if len(missing) > 0 {
		_, err := operator.AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: missing})
		var exists *serviceerror.AlreadyExists
		if err != nil && !errors.As(err, &exists) {
			return fmt.Errorf("adding search attributes to namespace %s: %w", namespace, err)
		}
		if have, err = list(); err != nil {
			return err
		}
	}
	for name, kind := range wanted {
		if have[name] != kind {
			return fmt.Errorf("search attribute %s of namespace %s is of type %s instead of %s; remove it with `temporal operator search-attribute remove --name %s` and try again",
				name, namespace, have[name], kind, name)
		}
	}
	return nil
}
