package schedules

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// decode reads YAML into a struct with JSON tags. Unlike json.Unmarshal it goes on
// after what it does not understand, so that all of that is known at once. The
// error is for text that is not YAML at all.
func decode(text []byte, into any) (problems, error) {
	raw, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, err
	}
	var wrong problems
	wrong.decode("", raw, reflect.ValueOf(into).Elem())
	return wrong, nil
}

func (p *problems) decode(path string, raw json.RawMessage, into reflect.Value) {
	if string(raw) == "null" {
		return
	}
	if into.Kind() == reflect.Map {
		p.decodeMap(path, raw, into)
		return
	}
	if _, text := into.Addr().Interface().(encoding.TextUnmarshaler); text || into.Kind() != reflect.Struct {
		if err := json.Unmarshal(raw, into.Addr().Interface()); err != nil {
			p.add(path, "%s", unfit(raw, into.Type(), err))
			into.SetZero()
		}
		return
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		p.add(orFile(path), "%s is not a mapping", raw)
		return
	}
	fields := fieldsOf(into)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if field, known := fields[name]; known {
			p.decode(join(path, name), members[name], field)
			continue
		}
		p.add(join(path, name), "there is no such setting. Known are %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
	}
}

// decodeMap reads members whose names are not settings.
func (p *problems) decodeMap(path string, raw json.RawMessage, into reflect.Value) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		p.add(path, "%s is not a mapping", raw)
		return
	}
	into.Set(reflect.MakeMap(into.Type()))
	for _, name := range slices.Sorted(maps.Keys(members)) {
		value := reflect.New(into.Type().Elem()).Elem()
		p.decode(join(path, name), members[name], value)
		into.SetMapIndex(reflect.ValueOf(name), value)
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// orFile names the whole file where there is no path.
func orFile(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

// fieldsOf are the fields of a struct by their names in JSON, with those of embedded
// structs.
func fieldsOf(of reflect.Value) map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	for i := range of.NumField() {
		if of.Type().Field(i).Anonymous {
			maps.Copy(fields, fieldsOf(of.Field(i)))
			continue
		}
		name, _, _ := strings.Cut(of.Type().Field(i).Tag.Get("json"), ",")
		fields[name] = of.Field(i)
	}
	return fields
}

// unfit says why a value is not of the type.
func unfit(raw json.RawMessage, t reflect.Type, err error) string {
	if failure := (*backup.Failure)(nil); errors.As(err, &failure) {
		return failure.Error()
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	wanted := map[reflect.Kind]string{
		reflect.Int: "a whole number", reflect.Float64: "a number", reflect.Bool: "true or false", reflect.String: "text",
	}[t.Kind()]
	switch {
	case t == reflect.TypeFor[backup.Duration]():
		wanted = "a duration. Write it as 30m, 6h or 7d"
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		wanted = "text"
	}
	return fmt.Sprintf("%s is not %s", raw, wanted)
}
