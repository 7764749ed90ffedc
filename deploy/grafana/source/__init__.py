"""The dashboards as code: typed builders of Grafana's Foundation SDK here, the JSON that Grafana reads in dashboards/.

python -m deploy.grafana.source            writes the JSON anew
python -m deploy.grafana.source --check    says what is not as the code has it
"""
