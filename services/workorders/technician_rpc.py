"""The methods of linli.workorders.v1.WorkOrdersService about teams, technicians, and where things are."""

from functools import partial
from uuid import UUID

from google.protobuf.empty_pb2 import Empty

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit import communities
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.texts import text
from services.workorders import technician_operations, technician_store
from services.workorders.dispatch import Position, Technician, is_on_shift
from services.workorders.targets import Hours
from services.workorders.technician_store import Team


async def create_team(tx: Transaction, request: pb.CreateTeamRequest) -> pb.Team:
    """Adds a team."""
    foreman_account_id = UUID(request.foreman_account_id) if request.foreman_account_id else None
    return _team(await technician_operations.create_team(tx, text(request.name, "name"), foreman_account_id))


async def list_teams(tx: Transaction, request: pb.ListTeamsRequest) -> pb.ListTeamsResponse:
    """The teams by name."""
    teams, token = await page(request, str, partial(technician_store.list_teams, tx), lambda team: team.name)
    return pb.ListTeamsResponse(teams=[_team(team) for team in teams], next_page_token=token)


def _team(team: Team) -> pb.Team:
    return pb.Team(team_id=str(team.team_id), name=team.name, foreman_account_id=str(team.foreman_account_id or ""))


async def set_technician(tx: Transaction, request: pb.SetTechnicianRequest) -> pb.Technician:
    """Enters somebody as a technician, or changes what they can and when they work."""
    technician = Technician(
        account_id=UUID(request.account_id),
        name=text(request.name, "name"),
        team_id=UUID(request.team_id),
        skills=list(request.skills),
        building_ids=[UUID(building_id) for building_id in request.building_ids],
        shifts=[Hours(each.weekday, each.from_minute, each.until_minute) for each in request.shifts],
        in_use=request.in_use,
    )
    (message,) = await _technicians(tx, [await technician_operations.set_technician(tx, technician)])
    return message


async def list_technicians(tx: Transaction, request: pb.ListTechniciansRequest) -> pb.ListTechniciansResponse:
    """Technicians by name, with what they do now."""
    fetch = partial(technician_store.list_technicians, tx, UUID(request.team_id) if request.team_id else None)
    technicians, token = await page(request, tuple[str, UUID], fetch, lambda each: (each.name, each.account_id))
    return pb.ListTechniciansResponse(technicians=await _technicians(tx, list(technicians)), next_page_token=token)


async def _technicians(tx: Transaction, technicians: list[Technician]) -> list[pb.Technician]:
    local = tx.now.astimezone(await communities.find_time_zone(tx))
    return [
        pb.Technician(
            account_id=str(each.account_id),
            name=each.name,
            team_id=str(each.team_id),
            skills=each.skills,
            building_ids=[str(building_id) for building_id in each.building_ids],
            shifts=[pb.WorkingHours(weekday=s.weekday, from_minute=s.from_minute, until_minute=s.until_minute) for s in each.shifts],
            in_use=each.in_use,
            open_jobs=each.open_jobs,
            on_shift=is_on_shift(each.shifts, local),
        )
        for each in technicians
    ]


async def report_my_position(tx: Transaction, request: pb.ReportMyPositionRequest) -> Empty:
    """Where the caller is."""
    await technician_operations.report_position(tx, Position(request.latitude, request.longitude))
    return Empty()


async def set_building_position(tx: Transaction, request: pb.SetBuildingPositionRequest) -> Empty:
    """Where a building is."""
    await technician_store.save_building_position(tx, UUID(request.building_id), Position(request.latitude, request.longitude))
    return Empty()
