{{/* Names that end in a label's 63 characters; the same object names for every release of one name. */}}
{{- define "gpu-dra.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "gpu-dra.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "gpu-dra.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "gpu-dra.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "gpu-dra.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "gpu-dra.selectorLabels" -}}
app.kubernetes.io/name: {{ include "gpu-dra.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gpu-dra.labels" -}}
{{ include "gpu-dra.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end -}}

{{/* Another name: what selects the driver's pods must not select the accountant's. */}}
{{- define "gpu-dra.accountantLabels" -}}
app.kubernetes.io/name: {{ include "gpu-dra.name" . | trunc 52 | trimSuffix "-" }}-accountant
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gpu-dra.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* "true" where GPUs are fake: nothing but directories of the host is needed. */}}
{{- define "gpu-dra.fake" -}}
{{- if hasPrefix "fake:" .Values.devices -}}true{{- end -}}
{{- end -}}

{{/* "true" where any device may be shared, by the switch or by the node config. */}}
{{- define "gpu-dra.shared" -}}
{{- if or (ne (toString .Values.shares) "disabled") (regexMatch "\"shares\":(\"memory\"|\"unlimited\"|[0-9])" (toJson .Values.nodeConfig)) -}}true{{- end -}}
{{- end -}}

{{/* Classes that the chart makes: {"classes": [{name, expression, resource, shares, mps}]}; shares where it takes shared devices. */}}
{{- define "gpu-dra.deviceClasses" -}}
{{- $driver := .Values.driverName -}}
{{- $ours := printf "device.driver == '%s'" $driver -}}
{{- $type := printf "%s && device.attributes['%s'].type ==" $ours $driver -}}
{{- $shared := "device.allowMultipleAllocations" -}}
{{- $shares := include "gpu-dra.shared" . -}}
{{- with .Values.deviceClasses -}}
{{- $gpu := printf "%s 'gpu'" $type -}}
{{- if and .gpu.exclusive $shares }}{{ $gpu = printf "%s && !%s" $gpu $shared }}{{ end -}}
{{- $all := list (dict "name" .gpu.name "expression" $gpu "resource" .gpu.extendedResourceName) -}}
{{- $all = append $all (dict "name" .mig.name "expression" (printf "%s 'mig'" $type) "resource" .mig.extendedResourceName) -}}
{{- $suffix := default "mig.nvidia.com" .mig.name -}}
{{- range .mig.profiles -}}
{{- $profile := replace "+" "." . -}}
{{- $expression := printf "%s 'mig' && device.attributes['%s'].profile == '%s'" $type $driver . -}}
{{- $all = append $all (dict "name" (printf "%s.%s" $profile $suffix) "expression" $expression "resource" (printf "nvidia.com/mig-%s" $profile)) -}}
{{- end -}}
{{- $all = append $all (dict "name" .shared.name "expression" (printf "%s && %s" (ternary (printf "%s 'gpu'" $type) $ours (ne .shared.extendedResourceName "")) $shared) "resource" .shared.extendedResourceName "shares" true) -}}
{{- $all = append $all (dict "name" .mps.name "expression" (printf "%s 'gpu' && %s" $type $shared) "resource" .mps.extendedResourceName "shares" true "mps" true) -}}
{{- $named := list -}}
{{- range $all }}{{ if .name }}{{ $named = append $named . }}{{ end }}{{ end -}}
{{- toJson (dict "classes" $named) -}}
{{- end -}}
{{- end -}}

{{- define "gpu-dra.pluginsDir" -}}
{{- default (printf "%s/plugins" .Values.kubelet.rootDir) .Values.kubelet.pluginsDir -}}
{{- end -}}

{{- define "gpu-dra.registryDir" -}}
{{- default (printf "%s/plugins_registry" .Values.kubelet.rootDir) .Values.kubelet.registryDir -}}
{{- end -}}

{{/* Requests are the limits: Guaranteed by construction. */}}
{{- define "gpu-dra.resources" -}}
requests:
  {{- toYaml .Values.resources.limits | nindent 2 }}
limits:
  {{- toYaml .Values.resources.limits | nindent 2 }}
{{- end -}}

{{/* Claims first (drain), then the kubelet turns away (2 s), calls in flight end (20 s), late writes settle (20 s). */}}
{{- define "gpu-dra.terminationGracePeriodSeconds" -}}
{{- add (ternary .Values.drain.timeoutSeconds 0 .Values.drain.enabled | int) 45 -}}
{{- end -}}

{{- define "gpu-dra.probe" -}}
grpc:
  port: {{ .port }}
  service: {{ .service }}
{{- toYaml .timing | nindent 0 }}
{{- end -}}
