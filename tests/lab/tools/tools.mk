# The pinned tools: one small module each, so that their dependencies meet
# neither each other's nor the product's.
#
# A stamp whose name is a digest of all that goes into a build stands for the
# built binaries. Names, unlike times, mean the same in a fresh clone, so clones
# can share a cache.

TOOLS_DIR := tests/lab/tools
GO_VERSION := $(shell go env GOVERSION 2>/dev/null)
digest = $(shell { cat $(sort $(wildcard $(TOOLS_DIR)/$(1)/go.* $(TOOLS_DIR)/$(1)/*.go)); \
                   echo '$(GO_VERSION) $(2) $(3)'; } | sha256sum | cut -c1-16)

# $(call tool,module,packages[,flags]): $(TOOL_module) is the stamp of a module.
define tool
TOOL_$(1) := $(AMMONITE_CACHE)/built/$(1)@$(call digest,$(1),$(2),$(3))
$$(TOOL_$(1)):
	@echo "building $(1) (once)"
	@mkdir -p '$(TOOL_BIN)'
	@cd $(TOOLS_DIR)/$(1) && CGO_ENABLED=0 nice go build -trimpath $(3) -o '$(TOOL_BIN)/' $(2)
	@mkdir -p '$$(@D)' && rm -f '$$(@D)'/$(1)@*
	@touch '$$@'
endef

# kubectl refuses a server, and itself, without a proper version.
KUBERNETES_VERSION := $(shell sed -n 's|.*k8s.io/kubernetes \(v[0-9.]*\).*|\1|p' $(TOOLS_DIR)/kubernetes/go.mod)
version_minor = $(word 2,$(subst ., ,$(KUBERNETES_VERSION)))
KUBERNETES_FLAGS := -ldflags "-s -w \
	-X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION) \
	-X k8s.io/component-base/version.gitMajor=1 \
	-X k8s.io/component-base/version.gitMinor=$(version_minor)"
STRIPPED := -ldflags "-s -w"

$(eval $(call tool,restic,github.com/restic/restic/cmd/restic,$(STRIPPED)))
$(eval $(call tool,rest-server,github.com/restic/rest-server/cmd/rest-server,$(STRIPPED)))
$(eval $(call tool,kubernetes,k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-controller-manager k8s.io/kubernetes/cmd/kubectl,$(KUBERNETES_FLAGS)))
$(eval $(call tool,temporal-server,.,$(STRIPPED)))
$(eval $(call tool,temporal,github.com/temporalio/cli/cmd/temporal,$(STRIPPED)))
$(eval $(call tool,tctl,github.com/temporalio/tctl/cmd/tctl,$(STRIPPED)))
$(eval $(call tool,golangci-lint,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,$(STRIPPED)))
$(eval $(call tool,workflowcheck,go.temporal.io/sdk/contrib/tools/workflowcheck,$(STRIPPED)))

# What the lab runs, and what checks code.
LAB_TOOLS  := $(TOOL_restic) $(TOOL_rest-server) $(TOOL_kubernetes) $(TOOL_temporal-server) $(TOOL_temporal) $(TOOL_tctl)
CODE_TOOLS := $(TOOL_golangci-lint) $(TOOL_workflowcheck)

# One build at a time: each of them uses every core by itself.
.NOTPARALLEL:
