package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metavalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubeyaml "k8s.io/apimachinery/pkg/util/yaml"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// crdRules is what the Kubernetes API server checks of an object because of the CustomResourceDefinition of its kind.
//
// Istio has such a validator too, in pkg/config/crd, but that is part of its test framework, which writes to standard
// output as soon as it is loaded.
type crdRules map[schema.GroupVersionKind]kindRules

type kindRules struct {
	structural *structuralschema.Structural
	openAPI    schemavalidation.SchemaValidator
	cel        *cel.Validator // nil where the schema has no rules
}

func loadCRDs(path string) (crdRules, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	rules := crdRules{}
	documents := kubeyaml.NewYAMLOrJSONDecoder(file, 1<<20)
	for {
		var written apiextensionsv1.CustomResourceDefinition
		if err := documents.Decode(&written); err == io.EOF {
			return rules, nil
		} else if err != nil {
			return nil, fmt.Errorf("failed to read %s: %w", path, err)
		}
		var crd apiextensions.CustomResourceDefinition
		err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&written, &crd, nil)
		if err != nil {
			return nil, fmt.Errorf("failed to convert CRD %s: %w", written.Name, err)
		}
		for _, version := range crd.Spec.Versions {
			// A schema that all versions share stands beside them after the conversion.
			versionSchema := version.Schema
			if versionSchema == nil {
				versionSchema = crd.Spec.Validation
			}
			compiled, err := compile(versionSchema)
			if err != nil {
				return nil, fmt.Errorf("failed to compile CRD %s, version %s: %w", written.Name, version.Name, err)
			}
			rules[schema.GroupVersionKind{Group: crd.Spec.Group, Version: version.Name, Kind: crd.Spec.Names.Kind}] = compiled
		}
	}
}

func compile(version *apiextensions.CustomResourceValidation) (kindRules, error) {
	if version == nil {
		return kindRules{}, fmt.Errorf("it has no schema")
	}
	openAPI, _, err := schemavalidation.NewSchemaValidator(version.OpenAPIV3Schema)
	if err != nil {
		return kindRules{}, err
	}
	structural, err := structuralschema.NewStructural(version.OpenAPIV3Schema)
	if err != nil {
		return kindRules{}, err
	}
	return kindRules{structural, openAPI, cel.NewValidator(structural, true, celconfig.PerCallLimit)}, nil
}

// check gives all that the API server would object to. It fills defaults in, as the API server does.
func (rules crdRules) check(object *unstructured.Unstructured) []string {
	var messages []string
	objectTo := func(errs field.ErrorList) {
		for _, err := range errs {
			messages = append(messages, err.Error())
		}
	}
	objectTo(metavalidation.ValidateObjectMetaAccessor(object, true, metavalidation.NameIsDNSSubdomain, field.NewPath("metadata")))

	kind, known := rules[object.GroupVersionKind()]
	if !known {
		return append(messages, fmt.Sprintf("there is no CRD for %s", object.GroupVersionKind()))
	}
	// Pruning takes unknown fields away, so it comes first and what it took is reported.
	taken := pruning.PruneWithOptions(object.Object, kind.structural, true,
		structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	for _, path := range taken {
		if !strings.HasPrefix(path, "metadata.") {
			messages = append(messages, fmt.Sprintf("%s: field not declared in schema", path))
		}
	}
	defaulting.Default(object.Object, kind.structural)
	errs := schemavalidation.ValidateCustomResource(nil, object.Object, kind.openAPI)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, kind.structural, object.Object)...)
	// Rules rely on the types that the schema promises, so the API server does not run them over an object that breaks it.
	if len(errs) == 0 && kind.cel != nil {
		errs, _ = kind.cel.Validate(context.Background(), nil, kind.structural, object.Object, nil, celconfig.RuntimeCELCostBudget)
	}
	objectTo(errs)
	return messages
}
